"""Who may do what, and what is kept from whom: keys, sign-in, roles, tokens, vault, scrubbing, audit.

Logic and the files under ``<data>/keys/`` only. Records that belong into a database go through the small
``…Repo`` protocols in each module, which ``appliance.store`` implements. The model is told in plain words
in docs/security.md.
"""
