# Runs one Bash script. Argument: the descriptor that its code comes from. The payload is JSON on standard
# input; standard output is the output, as JSON if it is JSON and else as text.
IFS= read -r -d '' code <&"$1"
eval "exec $1<&-"
# A new shell knows nothing of this one, and counts the script's lines from one.
exec "$BASH" --norc --noprofile -c "$code" script
