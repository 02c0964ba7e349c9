#!/usr/bin/env bash
# Looks at a listener with sslscan and testssl.sh, as a stranger would, and fails for whatever they find that is worse than
# informational. It takes two minutes. Two findings are left aside, for they are about the certificate and not about TLS: the local
# CA has no list of revoked certificates, and localhost no CAA record.
set -euo pipefail
cd "$(dirname "$0")/../.."
for tool in sslscan testssl; do
	if ! command -v "$tool" >/dev/null; then
		echo "install sslscan and testssl.sh first: apt-get install sslscan testssl.sh" >&2
		exit 1
	fi
done

dir=$(mktemp -d)
server=
trap 'if [ -n "$server" ]; then kill "$server" 2>/dev/null || true; wait "$server" || true; fi; rm -rf "$dir"' EXIT
port=$((20000 + RANDOM % 10000))
cat >"$dir/pgreplicaproxy.hcl" <<HCL
state_dir = "$dir/state"
listen { address = "127.0.0.1:$port" }
cluster "main" {
  monitor { password = "nobody asks for it" }
  backend "db1" { address = "127.0.0.1:1" }
}
HCL
CGO_ENABLED=0 go build -o "$dir/pgreplicaproxy" ./cmd/pgreplicaproxy
"$dir/pgreplicaproxy" ca --config "$dir/pgreplicaproxy.hcl" >"$dir/root.crt"
"$dir/pgreplicaproxy" serve --config "$dir/pgreplicaproxy.hcl" 2>"$dir/log" &
server=$!
for _ in $(seq 100); do
	if grep -q '"listening"' "$dir/log"; then break; fi
	sleep 0.1
done

sslscan --no-colour --starttls-psql "127.0.0.1:$port" >"$dir/sslscan"
sed -n '/SSL\/TLS Protocols/,/Server Key Exchange/p' "$dir/sslscan"
weak=$(grep -E '^(SSLv[23]|TLSv1\.[01]) +enabled|Insecure|[^t] vulnerable|CBC|RC4|3DES|NULL|EXPORT| (40|56|112) bits' "$dir/sslscan" || true)

testssl --quiet --starttls postgres --color 0 --warnings off --add-ca "$dir/root.crt" --csvfile "$dir/testssl.csv" "localhost:$port" >"$dir/testssl" || true
grep -E '^"(clientsimulation|rating|overall_grade|FS|secure_renego|secure_client_renego|session_ticket)"' "$dir/testssl.csv" || true
if ! grep -q '"TLS1_3"' "$dir/testssl.csv"; then
	echo "testssl.sh did not get far:" >&2
	tail -20 "$dir/testssl" >&2
	exit 1
fi
weak+=$(awk -F'","' '$4 !~ /^(OK|INFO|severity)$/ && $1 !~ /^"(cert_revocation|DNS_CAArecord)$/' "$dir/testssl.csv")
if [ -n "$weak" ]; then
	echo "worse than informational:" >&2
	echo "$weak" >&2
	exit 1
fi
echo "nothing worse than informational, of $(($(wc -l <"$dir/testssl.csv") - 1)) findings"
