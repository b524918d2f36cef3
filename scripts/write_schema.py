"""Write options/schema.json, options/schema_test.json and the tables of options/README.md: ``python
scripts/write_schema.py``.
"""

import _path  # noqa: F401
from gpen.options.json_schema import SCHEMAS, dump_json_schema
from gpen.options.option_table import replace_tables
from gpen.utils.files import project_root, write_text

if __name__ == '__main__':
    folder = project_root() / 'options'
    readme = folder / 'README.md'
    texts = {folder / name: dump_json_schema(name) for name in SCHEMAS}
    texts[readme] = replace_tables(readme.read_text(encoding='utf-8'))
    for target, text in texts.items():
        write_text(target, text)
        print(target)
