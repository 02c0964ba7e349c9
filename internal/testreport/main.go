// Command testreport reads the output of go test -json and prints what a person wants of it: a line for each package, the
// whole output of a test that failed, the reason of each skip, and at last how many tests passed, failed and were skipped.
//
// It exits with 1 when a test or a package failed, when nothing ran, and, with -noskip, when a test was skipped.
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
)

// event is one line of go test -json (go doc test2json).
type event struct {
	Action, Package, Test, Output string
	Elapsed                       float64
}

// report is what was read so far.
type report struct {
	out                     io.Writer
	passed, failed, skipped int
	broken                  int                 // packages that failed
	output                  map[string][]string // of each test under way, and of each package by its name alone
}

func main() {
	noSkip := flag.Bool("noskip", false, "fail when a test was skipped")
	flag.Parse()
	r := report{out: os.Stdout, output: make(map[string][]string)}
	if err := r.read(os.Stdin); err != nil {
		fmt.Fprintln(os.Stderr, "testreport:", err)
		os.Exit(1)
	}
	if !r.ok(*noSkip) {
		os.Exit(1)
	}
}

// read goes through the events. Lines that are none, a compiler's messages among them, are passed on.
func (r *report) read(in io.Reader) error {
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var e event
		if json.Unmarshal(lines.Bytes(), &e) != nil {
			r.print("%s\n", lines.Text())
			continue
		}
		r.add(e)
	}
	return lines.Err()
}

func (r *report) print(format string, args ...any) { _, _ = fmt.Fprintf(r.out, format, args...) }

func (r *report) add(e event) {
	key := e.Package + " " + e.Test
	switch e.Action {
	case "output", "build-output":
		if e.Action == "build-output" {
			r.print("%s", e.Output)
			return
		}
		r.output[key] = append(r.output[key], e.Output)
	case "pass", "fail", "skip":
		if e.Test == "" {
			r.finishPackage(e)
		} else {
			r.finishTest(e)
		}
		delete(r.output, key)
	}
}

func (r *report) finishTest(e event) {
	output := strings.Join(r.output[e.Package+" "+e.Test], "")
	switch e.Action {
	case "pass":
		r.passed++
	case "skip":
		r.skipped++
		r.print("SKIP %s %s\n%s", e.Package, e.Test, output)
	case "fail":
		r.failed++
		r.print("FAIL %s %s\n%s", e.Package, e.Test, output)
	}
}

func (r *report) finishPackage(e event) {
	switch e.Action {
	case "pass":
		r.print("ok   %s %.1fs\n", e.Package, e.Elapsed)
	case "fail":
		r.broken++
		r.print("FAIL %s %.1fs\n%s", e.Package, e.Elapsed, strings.Join(r.output[e.Package+" "], ""))
	}
}

// ok prints the last line and returns whether the run counts as good.
func (r *report) ok(noSkip bool) bool {
	r.print("%d passed, %d failed, %d skipped\n", r.passed, r.failed, r.skipped)
	return r.failed == 0 && r.broken == 0 && r.passed > 0 && (!noSkip || r.skipped == 0)
}
