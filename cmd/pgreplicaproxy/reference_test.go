package main

import (
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestGoldenConfigReference holds docs/config.md to what the sample file explains and the schema has: each key once, under
// its block.
func TestGoldenConfigReference(t *testing.T) {
	sample, err := os.ReadFile(samplePath)
	if err != nil {
		t.Fatal(err)
	}
	reference := readReference(strings.Split(string(sample), "\n"))
	compareGolden(t, "../../docs/config.md", reference.markdown())
	documented := map[string]bool{}
	for _, b := range reference.blocks {
		for _, g := range b.groups {
			for _, key := range g.keys {
				documented[b.path+key.name] = true
			}
		}
	}
	for key := range schemaPaths(reflect.TypeFor[rawConfig](), "") {
		if !documented[key] {
			t.Errorf("the sample does not explain %s where it belongs", key)
		}
		delete(documented, key)
	}
	for key := range documented {
		t.Errorf("the sample explains %s, which the schema does not have", key)
	}
}

// schemaPaths returns all arguments with the blocks they are in, such as "cluster.backend.address".
func schemaPaths(raw reflect.Type, prefix string) map[string]bool {
	paths := map[string]bool{}
	for i := range raw.NumField() {
		field := raw.Field(i)
		name, kind, _ := strings.Cut(field.Tag.Get("hcl"), ",")
		switch kind {
		case "optional":
			paths[prefix+name] = true
		case "block":
			inner := field.Type
			for inner.Kind() != reflect.Struct {
				inner = inner.Elem()
			}
			for path := range schemaPaths(inner, prefix+name+".") {
				paths[path] = true
			}
		}
	}
	return paths
}

// reference is the sample file as a document.
type reference struct {
	intro  []string
	blocks []*referenceBlock // the first is the file itself
}

type referenceBlock struct {
	path   string // "", or "cluster.backend." for what stands in it
	header string // as in `backend "db1"`
	intro  []string
	groups []*referenceGroup
}

// referenceGroup are keys that stand together, under one comment or none.
type referenceGroup struct {
	comment []string
	keys    []referenceKey
}

type referenceKey struct {
	name, line, comment string
}

// The lines of the sample, whether they are commented out or not.
var (
	keyLine   = regexp.MustCompile(`^([a-z0-9_]+) += (.*)$`)
	blockLine = regexp.MustCompile(`^([a-z_]+)( "\w+")? \{(.*)$`)
	trailing  = regexp.MustCompile(`^(.*?[^ ]) +# (.*)$`)
)

// readReference reads the sample from top to bottom. A comment belongs to the block or the keys right below it; an empty line
// ends both.
func readReference(lines []string) *reference {
	r := &reference{}
	file := &referenceBlock{}
	r.blocks = []*referenceBlock{file}
	open := []*referenceBlock{file}
	known := schemaPaths(reflect.TypeFor[rawConfig](), "")
	var comment []string
	var group *referenceGroup
	for _, line := range lines {
		outside := strings.TrimLeft(line, " ")
		text := strings.TrimLeft(strings.TrimPrefix(outside, "#"), " ")
		if inner, ok := strings.CutPrefix(text, "#"); ok { // a comment in a block that is commented out
			outside, text = text, strings.TrimPrefix(inner, " ")
		}
		block := open[len(open)-1]
		key, header := keyLine.FindStringSubmatch(text), blockLine.FindStringSubmatch(text)
		switch {
		case r.intro == nil && line == "#":
			comment = append(comment, "")
		case text == "":
			if r.intro == nil {
				r.intro = comment
			}
			comment, group = nil, nil
		case key != nil && known[block.path+key[1]]:
			if group == nil || len(comment) > 0 {
				group = &referenceGroup{comment: comment}
				block.groups = append(block.groups, group)
			}
			entry := referenceKey{name: key[1], line: key[1] + " = " + key[2]}
			if m := trailing.FindStringSubmatch(entry.line); m != nil {
				entry.line, entry.comment = m[1], m[2]
			}
			group.keys = append(group.keys, entry)
			comment = nil
		case header != nil && !strings.HasSuffix(header[3], "}"):
			open = append(open, r.block(block.path+header[1]+".", header[1]+header[2], comment))
			comment, group = nil, nil
		case text == "}":
			open = open[:len(open)-1]
			comment, group = nil, nil
		case strings.HasPrefix(outside, "#"):
			comment = append(comment, text)
		}
	}
	return r
}

// block returns the block of a path, a new one if it was not met yet.
func (r *reference) block(path, header string, intro []string) *referenceBlock {
	for _, b := range r.blocks {
		if b.path == path {
			return b
		}
	}
	b := &referenceBlock{path: path, header: header, intro: intro}
	r.blocks = append(r.blocks, b)
	return b
}

func (r *reference) markdown() string {
	var b strings.Builder
	b.WriteString("# Configuration\n\n" +
		"Every key, as [pgreplicaproxy.hcl](../pgreplicaproxy.hcl) explains it; `make docs` writes this page from that file. " +
		"A key is shown with its default, or with an example where it has none.\n")
	for _, block := range r.blocks {
		intro := r.intro[1:] // behind the title
		if block.header != "" {
			level := strings.Repeat("#", 1+strings.Count(block.path, "."))
			b.WriteString("\n" + level + " " + strings.TrimSuffix(block.path, ".") + "\n\n`" + block.header + " { … }`\n")
			intro = block.intro
		}
		b.WriteString(paragraph(intro) + "\n")
		for _, group := range block.groups {
			b.WriteString(group.markdown())
		}
	}
	return b.String()
}

// markdown is one item of a list, or one with further ones below it where the keys have comments of their own.
func (g *referenceGroup) markdown() string {
	single := !slices.ContainsFunc(g.keys, func(k referenceKey) bool { return k.comment != "" })
	text := strings.Join(g.comment, " ")
	var b strings.Builder
	var lines []string
	for _, k := range g.keys {
		lines = append(lines, "`"+k.line+"`")
	}
	switch {
	case single && text == "":
		return "- " + strings.Join(lines, ", ") + "\n"
	case single:
		return "- " + strings.Join(lines, ", ") + ": " + escape(text) + "\n"
	case text == "":
		for i, k := range g.keys {
			b.WriteString("- " + lines[i] + suffix(k.comment) + "\n")
		}
	default:
		b.WriteString("- " + escape(text) + "\n")
		for i, k := range g.keys {
			b.WriteString("  - " + lines[i] + suffix(k.comment) + "\n")
		}
	}
	return b.String()
}

func suffix(comment string) string {
	if comment == "" {
		return ""
	}
	return ": " + escape(comment)
}

// paragraph sets the lines of a comment as text, and commands with what they do as they are.
func paragraph(lines []string) string {
	var b strings.Builder
	for i, line := range lines {
		if i == 0 && line != "" {
			b.WriteString("\n")
		}
		if strings.HasPrefix(line, "pgreplicaproxy ") {
			b.WriteString("    " + line + "\n")
			continue
		}
		b.WriteString(escape(line) + "\n")
	}
	return b.String()
}

// escape keeps Markdown from seeing more in a comment than there is.
func escape(text string) string {
	return strings.NewReplacer("*", `\*`, "<", `\<`, "[a-z]", `\[a-z]`).Replace(text)
}
