"""``gpen init RECIPE``: write a recipe into the working directory, to be edited."""

import argparse
import os
import re
import textwrap
from collections.abc import Sequence
from pathlib import Path

from gpen.commands._arguments import ArgumentParser
from gpen.commands._run import run_command
from gpen.errors import UserError
from gpen.utils.command_line import SCRIPTS, spell_command
from gpen.utils.text import suggest

_WIDTH = 120  # characters in a line of the list
_MODES = {script: mode for mode, script in SCRIPTS.items()}


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the command line's arguments."""
    parser = ArgumentParser(
        description='Write a recipe, and those that it inherits from, into the working directory. '
        'No file is ever overwritten.'
    )
    parser.add_argument('recipe', nargs='?', metavar='RECIPE', help='such as gpen_512; without it, all are listed')
    return parser.parse_args(arguments)


def write_recipe(name: str) -> int:
    """Write the recipe and its bases; return the exit status."""
    from gpen.options.recipes import find_recipe, list_recipes, name_recipe
    from gpen.utils.files import write_text

    source = find_recipe(name)
    if source is None:
        near = suggest(name, map(name_recipe, list_recipes()))
        raise UserError(f'There is no recipe {name}.{near} gpen init lists all of them.')

    # All files are looked at before any is written.
    texts = adapt_recipe(source)
    target, *bases = texts
    if target.exists():
        raise UserError(f'{target} is there already, and is left as it is. Rename it, or go to another folder.')
    for base in bases:
        if base.exists() and base.read_text(encoding='utf-8') != texts[base]:
            raise UserError(
                f'{target} would inherit from {base}, which is there already and differs from the recipe of that name. '
                'Rename it, or go to another folder.'
            )
    for file, text in texts.items():
        if not file.exists():
            write_text(Path.cwd() / file, text)

    inherited = f', and what it inherits from: {", ".join(map(str, bases))}' if bases else ''
    print(f'Written: {target}{inherited}. Put your folders and files into it, then:')
    is_for_training = source.parent.name == 'train'
    for options in (['--dry_run'], ['--auto_resume']) if is_for_training else ([],):
        print('  ' + spell_command('train' if is_for_training else 'test', '-opt', target, *options))
    return 0


def adapt_recipe(source: Path) -> dict[Path, str]:
    """Return the files to write: the recipe, and those that it inherits from, as they work in the working directory.

    The comments name them where they are then, and commands as they are typed.
    """
    import yaml

    text = source.read_text(encoding='utf-8')
    base = (yaml.safe_load(text) or {}).get('_base_')
    below = {} if base is None else adapt_recipe(source.parent / base)

    # Where the editor finds the schema, and how commands name the file
    folder = source.parents[1]
    schema = os.path.relpath(folder) if folder.is_relative_to(Path.cwd()) else folder
    target = Path(source.name if source.parent.name == 'train' else f'{source.stem}_test.yml')
    text = text.replace('$schema=../', f'$schema={Path(schema).as_posix()}/')
    text = text.replace(f'options/{source.parent.name}/{source.name}', str(target))
    text = re.sub(r'python ((?:codes|scripts)/\w+\.py)', lambda match: spell_command(_MODES[match[1]]), text)
    return {target: text, **below}


def list_all() -> int:
    """Print the names of all recipes and what they are; return the exit status."""
    from gpen.options.recipes import list_recipes, name_recipe

    recipes = {name_recipe(path): path for path in list_recipes()}
    width = max(map(len, recipes))
    for name, path in recipes.items():
        print(f'{name:{width}}  {describe_recipe(path.read_text(encoding="utf-8"), _WIDTH - width - 2)}')
    print('\ngpen init NAME writes one of them into this folder, to be edited.')
    return 0


def describe_recipe(text: str, width: int) -> str:
    """Return the first sentence of the comment that a recipe begins with, in at most ``width`` characters."""
    head = re.match(r'(?:#.*\n)*', text)
    lines = [line.lstrip('# ') for line in (head[0] if head else '').splitlines() if 'yaml-language-server' not in line]
    sentence = re.split(r'(?<=\.)\s|:\s+python', ' '.join(lines), maxsplit=1)[0]
    return textwrap.shorten(sentence.rstrip('.:'), width, placeholder=' ...')


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    args = parse_arguments(arguments)
    return run_command(list_all if args.recipe is None else lambda: write_recipe(args.recipe))
