package backends

import (
	"fmt"
	"io"
	"log/slog"
)

// Credentials are the monitor's own role on the servers. They are used for nothing else, and print without the password,
// whatever prints them.
type Credentials struct {
	User     string
	Password string `json:"-"`
	Database string
}

// String returns user and database.
func (c Credentials) String() string {
	return fmt.Sprintf("user=%s database=%s password=[redacted]", c.User, c.Database)
}

// Format writes what String returns for every verb, %#v too. It makes Credentials a fmt.Formatter.
func (c Credentials) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, c.String()) }

// LogValue returns user and database.
func (c Credentials) LogValue() slog.Value {
	return slog.GroupValue(slog.String("user", c.User), slog.String("database", c.Database))
}
