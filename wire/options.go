package wire

import "strings"

// TakeSetting removes a setting from the command-line options that a client sends in the parameter "options", as in
// "-c name=value" or "--name=value" (manual, "libpq Connection String", options), and returns its value, the last one's if it
// is given more than once. Everything else of the options stays byte for byte; a parameter of which nothing is left is removed.
//
// Options are split as pg_split_opts in src/backend/utils/init/postinit.c does, and read as process_postgres_switches in
// src/backend/tcop/postgres.c does, except that a -c which is written in one with other switches ("-sc name=value") is passed over.
func (s Startup) TakeSetting(name string) (rest Startup, value string, found bool) {
	options, _ := s.Get("options")
	var kept strings.Builder
	for len(options) > 0 {
		one, after := cutSwitch(options)
		if given, ok := one.setting(name); ok {
			value, found = given, true
		} else {
			kept.WriteString(options[:len(options)-len(after)])
		}
		options = after
	}
	if !found {
		return s, "", false
	}
	return s.With("options", kept.String()).withoutEmpty("options"), value, true
}

// commandSwitch is one switch of a command line, with its argument where that is a word of its own.
type commandSwitch struct{ word, argument string }

// setting returns the value that the switch gives to a setting of that name. Names are matched as the server does: without regard to case, and
// with dashes for underscores.
func (c commandSwitch) setting(name string) (value string, ok bool) {
	assignment, ok := c.argument, c.word == "-c"
	if !ok {
		if assignment, ok = strings.CutPrefix(c.word, "--"); !ok {
			assignment, ok = strings.CutPrefix(c.word, "-c")
		}
	}
	given, value, assigned := strings.Cut(assignment, "=")
	return value, ok && assigned && strings.EqualFold(strings.ReplaceAll(given, "-", "_"), name)
}

// cutSwitch cuts the first switch off a command line, with the white space behind it. White space before it is a switch of its
// own, so that nothing is lost.
func cutSwitch(line string) (one commandSwitch, rest string) {
	one.word, rest = cutWord(line)
	const withArgument = "BCcDdfhkNprStvW"
	if len(one.word) == 2 && one.word[0] == '-' && strings.IndexByte(withArgument, one.word[1]) >= 0 {
		one.argument, rest = cutWord(rest)
	}
	return one, rest
}

// cutWord cuts a word off, with the white space behind it. A backslash takes the next character as it is.
func cutWord(line string) (word, rest string) {
	const space = " \t\n\v\f\r"
	var b strings.Builder
	i := 0
	for ; i < len(line) && strings.IndexByte(space, line[i]) < 0; i++ {
		if line[i] == '\\' && i+1 < len(line) {
			i++
		}
		b.WriteByte(line[i])
	}
	for i < len(line) && strings.IndexByte(space, line[i]) >= 0 {
		i++
	}
	return b.String(), line[i:]
}

// withoutEmpty leaves the last parameter of that name out if its value is empty.
func (s Startup) withoutEmpty(name string) Startup {
	for i := len(s.Params) - 1; i >= 0; i-- {
		if s.Params[i].Name == name {
			if strings.TrimSpace(s.Params[i].Value) == "" {
				s.Params = append(append([]Param(nil), s.Params[:i]...), s.Params[i+1:]...)
			}
			break
		}
	}
	return s
}
