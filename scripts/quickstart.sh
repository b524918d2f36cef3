#!/usr/bin/env bash
# From nothing to a restored picture: renders synthetic portraits, trains on them, scores the result.
set -eu
source "$(dirname "${BASH_SOURCE[0]}")/_env.sh"
install run requirements.txt

recipe=options/train/quickstart.yml
echo '== 1/3 Rendering portraits'
"$PYTHON" scripts/make_portraits.py --output datasets/quickstart --train 400 --val 32 --size 64
echo '== 2/3 Training (at most 5 minutes on 2 cores)'
"$PYTHON" codes/train.py -opt "$recipe" --auto_resume
echo '== 3/3 Scoring on portraits that training never saw'
"$PYTHON" codes/test.py -opt "$recipe"
