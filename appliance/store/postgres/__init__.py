"""The store in a Postgres database, which several machines may share. Imported only where the settings name one."""
