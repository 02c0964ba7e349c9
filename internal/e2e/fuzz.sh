#!/bin/sh
# Runs every fuzz target for the time given, one after the other. What is found is kept as a seed under testdata/fuzz.
set -eu
cd "$(dirname "$0")/../.."
for package in $(go list ./...); do
	for target in $(go test -list '^Fuzz' "$package" | grep '^Fuzz' || true); do
		echo "$package $target"
		go test -run '^$' -fuzz "^$target\$" -fuzztime "$1" -fuzzminimizetime 10x "$package"
	done
done
