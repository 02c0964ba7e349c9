#!/bin/sh
# Builds dist/: the program, a .deb and an .rpm, for each architecture named. The same commit gives the same bytes,
# wherever it is built: what carries a time carries that of the commit.
set -eu
cd "$(dirname "$0")/.."
NFPM="github.com/goreleaser/nfpm/v2/cmd/nfpm@v2.45.0"

commit=$(git rev-parse --short=12 HEAD)
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
export SOURCE_DATE_EPOCH
# Without VERSION it is a snapshot, which package managers take as older than the first release.
snapshot="0.0.0~$(date -u -d "@$SOURCE_DATE_EPOCH" +%Y%m%d).$commit"
version=${VERSION:-}

mkdir -p dist/tree
for arch in "$@"; do
	echo "Building for $arch" >&2
	GOARCH=$arch make --no-print-directory build VERSION="$version" BINARY="dist/pgreplicaproxy-linux-$arch" GOOS=linux
	cp "dist/pgreplicaproxy-linux-$arch" dist/tree/pgreplicaproxy
	gzip -9nc packaging/pgreplicaproxy.1 >dist/tree/pgreplicaproxy.1.gz
	for shell in bash zsh fish; do
		go run ./cmd/pgreplicaproxy completion "$shell" >"dist/tree/completion.$shell"
	done
	for packager in deb rpm; do
		PACKAGE_ARCH=$arch PACKAGE_VERSION=${version:-$snapshot} \
			go run "$NFPM" package --config packaging/nfpm.yaml --packager "$packager" --target dist/ >&2
	done
done
rm -rf dist/tree
