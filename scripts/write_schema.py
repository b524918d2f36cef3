"""Write options/schema.json anew from the typed options: ``python scripts/write_schema.py``."""

import _path  # noqa: F401
from gpen.options.json_schema import dump_json_schema
from gpen.utils.files import project_root, write_text

if __name__ == '__main__':
    target = project_root() / 'options' / 'schema.json'
    write_text(target, dump_json_schema())
    print(target)
