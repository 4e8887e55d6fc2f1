#!/usr/bin/env bash
umask 077
cd -- /data/services/s1 || exit 1
module load env/release/2023.1
module load Apptainer
exec -- python3 -m tokenstorm.node .
