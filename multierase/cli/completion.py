"""Scripts that let a shell complete verbs, flags, choices and file names."""

from __future__ import annotations

import re
from collections.abc import Sequence

from multierase.cli.flags import Option, choices_of
from multierase.cli.options import VERBS, common

ALONE = ("--help", "--version")
BASH = """\
# multierase's completion for {shell}. Read it from {file}:
#     {use}
{head}_multierase() {{
    local word="${{COMP_WORDS[COMP_CWORD]}}" verb="${{COMP_WORDS[1]}}" flag="" words="" at
    COMPREPLY=()
    [[ "$word" == "=" ]] && word=""
    if ((COMP_CWORD == 1)); then
        COMPREPLY=($(compgen -W "{verbs}" -- "$word"))
        return
    fi

    # The flag that the word belongs to: some take several words.
    for ((at = COMP_CWORD - 1; at > 1; at--)); do
        if [[ "${{COMP_WORDS[at]}}" == --* ]]; then
            flag="${{COMP_WORDS[at]}}"
            break
        fi
    done
    if [[ "$word" == -* ]]; then
        case "$verb" in
{flags}
        esac
    else
        case "$verb $flag" in
{choices}
        esac
    fi
    # Without any of these the shell completes names of files.
    COMPREPLY=($(compgen -W "$words" -- "$word"))
}}
complete -o default -o bashdefault -F _multierase multierase
"""
HEADS = {"bash": "", "zsh": "autoload -U +X bashcompinit && bashcompinit\n"}
USES = {
    "bash": ("~/.bashrc", "source <(multierase completion bash)"),
    "zsh": ("~/.zshrc, after compinit", "source <(multierase completion zsh)"),
    "fish": ("~/.config/fish/config.fish", "multierase completion fish | source"),
}


def script(shell: str) -> str:
    """Return the script for ``bash``, ``zsh`` or ``fish``."""
    return _for_fish() if shell == "fish" else _for_bash(shell)


def _for_bash(shell: str) -> str:
    flags, choices = [], []
    for verb in VERBS:
        options = _options(verb)
        labels = [option.label for option in options if not option.positional]
        flags.append(f'            {verb}) words="{" ".join([*labels, "--help"])}" ;;')

        for option in options:
            words = " ".join(choices_of(option.type))
            label = "" if option.positional else option.label
            if words:
                choices.append(f'            "{verb} {label}") words="{words}" ;;')

    file, use = USES[shell]
    return BASH.format(
        shell=shell,
        file=file,
        use=use,
        head=HEADS[shell],
        verbs=" ".join([*VERBS, *ALONE]),
        flags="\n".join(flags),
        choices="\n".join(choices),
    )


def _for_fish() -> str:
    file, use = USES["fish"]
    lines = [
        f"# multierase's completion for fish. Read it from {file}:",
        f"#     {use}",
        "complete -c multierase -f",
    ]
    for word in ALONE:
        lines.append(_fish("__fish_use_subcommand", "-l", word.removeprefix("--")))

    for verb, what in VERBS.items():
        lines.append(_fish("__fish_use_subcommand", "-a", verb, "-d", what.about))
        seen = f"__fish_seen_subcommand_from {verb}"
        for option in _options(verb):
            words = choices_of(option.type)
            given = _fish_values(words)
            if not option.positional:
                name = ["-l", option.label.removeprefix("--"), "-d", _short(option)]
                lines.append(_fish(seen, *name, *([] if option.switch else given)))
            elif words:
                lines.append(_fish(seen, *given))
            else:
                lines.append(_fish(seen, "-F"))

    return "\n".join(lines) + "\n"


def _fish_values(words: Sequence[str]) -> list[str]:
    return ["-x", "-a", " ".join(words)] if words else ["-r", "-F"]


def _fish(condition: str, *words: str) -> str:
    quoted = [word if word.startswith("-") else _quoted(word) for word in words]

    return f"complete -c multierase -n {_quoted(condition)} {' '.join(quoted)}"


def _quoted(text: str) -> str:
    """Quote as fish does: a backslash before a quote, and none elsewhere."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _options(verb: str) -> list[Option]:
    return [*VERBS[verb].options(), *common()]


def _short(option: Option) -> str:
    """Return the first words of an option's help, which stand beside it in a list."""
    return re.split(r"[;:.]( |$)", option.help)[0]
