#!/bin/sh
# Installs the servers that tests talk to and that no package of PyPI brings: RabbitMQ, from Debian's packages.
#
# It asks nothing and starts no service: each test starts servers of its own, in a directory of their own. What is there
# already is left as it is, so a second run costs nothing.
set -eu

rabbitmq=/usr/lib/rabbitmq/bin/rabbitmq-server
if [ -x "$rabbitmq" ]; then
  echo "rabbitmq-server is here already"
  exit 0
fi
if ! command -v apt-get >/dev/null 2>&1; then
  echo "install-servers: this system has no apt-get; install RabbitMQ (the program rabbitmq-server) its own way" >&2
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
apt-get install -qq --yes --no-install-recommends rabbitmq-server
