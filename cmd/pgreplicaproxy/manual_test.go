package main

import (
	"fmt"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// TestGoldenManPage holds the man page to the commands and flags that there are.
func TestGoldenManPage(t *testing.T) {
	compareGolden(t, "../../packaging/pgreplicaproxy.1", manPage(newRootCommand()))
}

// manualEnd is what no command knows of itself.
const manualEnd = `.SH SIGNALS
What
.B pgreplicaproxy serve
does at a signal:
.TP
.BR SIGTERM ", " SIGINT
Refuse new clients, let sessions finish for drain_timeout, end those that are left, exit. A second one ends them at once.
.TP
.B SIGHUP
Read the configuration and the files it names again.
.TP
.B SIGUSR2
Start the program's file anew, which may be another version by now, and let the new process serve new clients on the same
sockets. Sessions stay with the old process for drain_timeout. If the new process fails, nothing changes.
.SH EXIT STATUS
.TP
.B 0
All is well.
.TP
.B 1
Failed at run time.
.TP
.B 2
The command line or the configuration is wrong.
.SH ENVIRONMENT
.TP
.B STATE_DIRECTORY
Where state is kept, unless the configuration says state_dir. systemd sets it.
.TP
.B NO_COLOR
Any value keeps colours off the terminal.
.TP
.BR NOTIFY_SOCKET ", " WATCHDOG_USEC ", " LISTEN_FDS
systemd's: notifications, watchdog and socket activation are supported.
.SH FILES
.TP
.I /etc/pgreplicaproxy/pgreplicaproxy.hcl
The configuration of the packaged service.
.TP
.I /etc/pgreplicaproxy/environment
Its secrets, for env() in the configuration.
.TP
.I /var/lib/pgreplicaproxy
Its state: the local certificate authority, and what must survive a restart.
.SH SEE ALSO
.BR psql (1),
.BR systemctl (1)
.PP
https://github.com/replicon/pgreplicaproxy
`

// manPage returns the manual of a command and those below it, for man(7).
func manPage(root *cobra.Command) string {
	root.InitDefaultHelpFlag()
	root.InitDefaultCompletionCmd()
	var b strings.Builder
	b.WriteString(".\\\" Written by make docs.\n.TH PGREPLICAPROXY 1\n.SH NAME\npgreplicaproxy \\- " + roff(lower(root.Short)) + "\n")
	b.WriteString(".SH SYNOPSIS\n.B pgreplicaproxy\n.I command\n[\\fIflags\\fR]\n")
	b.WriteString(".SH OPTIONS\n" + manFlags(root.PersistentFlags()))
	b.WriteString(".SH COMMANDS\n")
	for _, c := range root.Commands() {
		if c.Name() == "help" {
			continue
		}
		text := c.Long
		if text == "" || c.Name() == "completion" {
			text = c.Short + "."
		}
		c.InitDefaultHelpFlag()
		b.WriteString(".SS " + roff(c.Use) + "\n" + manText(text) + manFlags(c.LocalNonPersistentFlags()))
	}
	return b.String() + manualEnd
}

// manText sets paragraphs, and lines that are indented as they are.
func manText(text string) string {
	var b strings.Builder
	for i, paragraph := range strings.Split(strings.TrimSpace(text), "\n\n") {
		if i > 0 {
			b.WriteString(".PP\n")
		}
		if strings.HasPrefix(paragraph, "  ") {
			b.WriteString(".nf\n" + roff(paragraph) + "\n.fi\n")
			continue
		}
		b.WriteString(roff(paragraph) + "\n")
	}
	return b.String()
}

func manFlags(flags *pflag.FlagSet) string {
	var b strings.Builder
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Name == "help" {
			return
		}
		name := "\\-\\-" + roff(f.Name)
		if f.Shorthand != "" {
			name = "\\-" + f.Shorthand + ", " + name
		}
		value, usage := pflag.UnquoteUsage(f)
		if value != "" {
			name += "\\fR \\fI" + roff(value)
		}
		if f.DefValue != "false" && f.DefValue != "" {
			usage += fmt.Sprintf(" (default %s)", f.DefValue)
		}
		b.WriteString(".TP\n\\fB" + name + "\\fR\n" + roff(usage) + "\n")
	})
	return b.String()
}

// lower makes a sentence's beginning fit for the middle of one.
func lower(s string) string { return strings.ToLower(s[:1]) + s[1:] }

// roff escapes text: no line may begin as a request, and hyphens are typed as such.
func roff(s string) string {
	s = strings.NewReplacer(`\`, `\e`, "-", `\-`, "\n.", "\n\\&.", "\n'", "\n\\&'").Replace(s)
	if strings.HasPrefix(s, ".") || strings.HasPrefix(s, "'") {
		return `\&` + s
	}
	return s
}
