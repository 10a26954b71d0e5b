# Completion of lumen in bash. In ~/.bashrc: source <(lumen completion bash)
_lumen() {
    local line="${COMP_LINE:0:COMP_POINT}" word="" break="" prefix=""
    local current="${line##*[[:space:]]}"
    # bash replaces only what follows the last of its word breaks, which "=" and ":" are by default.
    for break in = :; do
        if [[ $COMP_WORDBREAKS == *"$break"* && $current == *"$break"* ]]; then
            word="${current%"$break"*}$break"
            [[ ${#word} -gt ${#prefix} ]] && prefix="$word"
        fi
    done
    COMPREPLY=()
    while IFS=$'\t' read -r word _; do
        COMPREPLY+=("${word#"$prefix"}")
    done < <("${COMP_WORDS[0]}" completion --line "$line" 2>/dev/null)
    # No space after a key, or within a list.
    if [[ "${COMPREPLY[0]-}" == *= || "${COMPREPLY[0]-}" == \[* ]]; then
        compopt -o nospace 2>/dev/null
    fi
}
# Where nothing is offered, as for photos and data.root=, bash offers files.
complete -o default -F _lumen lumen
