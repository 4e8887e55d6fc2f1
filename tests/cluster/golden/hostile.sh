#!/usr/bin/env bash
umask 077
cd -- '/data/a folder'"'"'s "name"
$(id)' || exit 1
export EMPTY=''
export LINES_OF_TEXT='1
2'"'"'
'
export MODEL='a; b'
exec -- './-my engine' --prompt 'it'"'"'s $(id) `id` "$HOME"; rm -rf / &
second line' - '' '--ünï=☃'
