"""Write options/schema.json and options/schema_test.json anew: ``python scripts/write_schema.py``."""

import _path  # noqa: F401
from gpen.options.json_schema import SCHEMAS, dump_json_schema
from gpen.utils.files import project_root, write_text

if __name__ == '__main__':
    for file in SCHEMAS:
        target = project_root() / 'options' / file
        write_text(target, dump_json_schema(file))
        print(target)
