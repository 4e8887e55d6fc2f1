#!/usr/bin/env bash
umask 077
cd -- /data/services/s1 || exit 1
exec -- python3 -m tokenstorm.node .
