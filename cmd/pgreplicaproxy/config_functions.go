package main

import (
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/function"
)

// functions are what expressions of the file may call. Secrets come in through them, never through variables: HCL
// prints the values of variables beside a mistake.
func functions(dir string) map[string]function.Function {
	return map[string]function.Function{
		"env":  envFunction(),
		"file": fileFunction(dir),
	}
}

// ignoredEnvironment holds the variables, by name, that were taken out of the process's environment because they would steer
// the monitor. A reload finds them here.
var ignoredEnvironment sync.Map

// envFunction is env(name) and env(name, default): the value of an environment variable. One that is set, though empty,
// counts as set.
func envFunction() function.Function {
	return function.New(&function.Spec{
		Params:   []function.Parameter{{Name: "name", Type: cty.String}},
		VarParam: &function.Parameter{Name: "default", Type: cty.String},
		Type:     function.StaticReturnType(cty.String),
		Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
			if len(args) > 2 {
				return cty.NilVal, function.NewArgErrorf(2, "write env(\"NAME\") or env(\"NAME\", \"default\")")
			}
			name := args[0].AsString()
			if v, ok := os.LookupEnv(name); ok {
				return cty.StringVal(v), nil
			}
			if v, ok := ignoredEnvironment.Load(name); ok {
				return cty.StringVal(v.(string)), nil
			}
			if len(args) == 2 {
				return args[1], nil
			}
			return cty.NilVal, function.NewArgErrorf(0,
				"the environment variable %s is not set. Set it for this process, or give a default: env(%q, \"…\")", name, name)
		},
	})
}

// fileFunction is file(path): what a file holds, without the newline that editors put at its end. A relative path
// starts at dir.
func fileFunction(dir string) function.Function {
	return function.New(&function.Spec{
		Params: []function.Parameter{{Name: "path", Type: cty.String}},
		Type:   function.StaticReturnType(cty.String),
		Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
			path := args[0].AsString()
			if !filepath.IsAbs(path) {
				path = filepath.Join(dir, path)
			}
			content, err := os.ReadFile(path)
			if err != nil {
				return cty.NilVal, function.NewArgErrorf(0,
					"%v. The file has to exist and be readable by the user who runs this program", err)
			}
			text := strings.TrimSuffix(string(content), "\n")
			return cty.StringVal(strings.TrimSuffix(text, "\r")), nil
		},
	})
}
