"""Write the schemas in options and the tables of options/README.md anew: ``python scripts/write_schema.py``."""

import _path  # noqa: F401
from gpen.utils.files import project_root, write_text
from option_docs.json_schema import SCHEMAS, dump_json_schema
from option_docs.tables import replace_tables

if __name__ == '__main__':
    folder = project_root() / 'options'
    readme = folder / 'README.md'
    texts = {folder / name: dump_json_schema(name) for name in SCHEMAS}
    texts[readme] = replace_tables(readme.read_text(encoding='utf-8'))
    for target, text in texts.items():
        write_text(target, text)
        print(target)
