#!/bin/sh
# Installs the programs that tests and benchmarks use and that no package of PyPI brings, from Debian's packages:
#
#   rabbitmq-server                       a broker that consumers are tested with
#   haproxy, nginx with its stream module what the fault proxy is measured beside; nginx also is a system of a game day
#   iptables, iproute2, stress-ng,        what faults of a host are made with
#   libfaketime
#
# It asks nothing and starts no service: each test starts servers of its own, in a directory of their own. What is there
# already is left as it is, so a second run costs nothing.
set -eu

wanted=""
want() { # PROGRAM PACKAGE...
  program=$1
  shift
  # Debian puts some of them where only root looks.
  PATH="$PATH:/usr/sbin:/sbin:/usr/lib/rabbitmq/bin" command -v "$program" >/dev/null 2>&1 || wanted="$wanted $*"
}
want rabbitmq-server rabbitmq-server
want haproxy haproxy
want nginx nginx-light libnginx-mod-stream
want iptables iptables
want ip iproute2
want tc iproute2
want stress-ng stress-ng
want faketime faketime

if [ -z "$wanted" ]; then
  echo "all of these servers and tools are here already"
  exit 0
fi
if ! command -v apt-get >/dev/null 2>&1; then
  echo "install-servers: this system has no apt-get; install these its own way:$wanted" >&2
  exit 1
fi
if [ "$(id -u)" != 0 ]; then
  echo "install-servers: apt-get needs root; run: sudo sh tools/install-servers.sh" >&2
  exit 1
fi

# Debian's packages start what they install, unless this says no (101: forbidden by policy). One that is here stays.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
  trap 'rm -f "$policy"' EXIT
  trap 'exit 1' HUP INT TERM
  printf '#!/bin/sh\nexit 101\n' >"$policy"
  chmod 755 "$policy"
fi

export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
# shellcheck disable=SC2086  # a list of names
apt-get install -qq --yes --no-install-recommends $wanted >/dev/null
