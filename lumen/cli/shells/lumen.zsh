#compdef lumen
# Completion of lumen in zsh. In ~/.zshrc, after compinit: source <(lumen completion zsh)
_lumen() {
    local -a lines names keys names_shown keys_shown
    local line name text
    line="${(j: :)words[1,CURRENT-1]} $PREFIX"
    lines=("${(@f)$("$words[1]" completion --line "$line" 2>/dev/null)}")
    for line in $lines; do
        name="${line%%$'\t'*}" text="${line#*$'\t'}"
        if [[ $name == *= || $name == *=\[* ]]; then
            keys+=("$name") keys_shown+=("$name${text:+  -- $text}")
        else
            names+=("$name") names_shown+=("$name${text:+  -- $text}")
        fi
    done
    if (( $#names + $#keys == 0 )); then
        compset -P '*='
        _files
        return
    fi
    (( $#names )) && compadd -l -d names_shown -a names
    (( $#keys )) && compadd -l -S '' -d keys_shown -a keys # no space after a key, or within a list
}
if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    _lumen "$@"
else
    compdef _lumen lumen
fi
