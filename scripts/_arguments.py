from gpen.commands._arguments import within as within
