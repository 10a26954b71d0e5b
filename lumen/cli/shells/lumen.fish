# Completion of lumen in fish. In ~/.config/fish/config.fish: lumen completion fish | source
function __lumen_complete
    set -l found (lumen completion --line (commandline -cp | string collect) 2>/dev/null)
    if set -q found[1]
        printf '%s\n' $found
        return
    end
    set -l prefix (string match -r '^.*=' -- (commandline -ct))
    for path in (__fish_complete_path (string replace -r '^.*=' '' -- (commandline -ct)))
        echo "$prefix$path"
    end
end
complete --command lumen --no-files --arguments '(__lumen_complete)'
