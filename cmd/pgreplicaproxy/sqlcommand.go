package main

import (
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/replicon/pgreplicaproxy/backends"
	"github.com/replicon/pgreplicaproxy/internal/certstore"
	"github.com/replicon/pgreplicaproxy/internal/proxy"
)

// newSQLCommand returns the command that prints what a superuser runs before the proxy can watch a cluster.
func newSQLCommand(configPath *string) *cobra.Command {
	certificates := false
	cmd := &cobra.Command{
		Use:   "sql [cluster]",
		Short: "Print the SQL that creates the monitor's role",
		Long: `Print the SQL that creates the role with which pgreplicaproxy watches the servers of a cluster, and the lines
that pg_hba.conf needs. A superuser runs it on the primary:

  pgreplicaproxy sql | psql -X -h db1.example.com -U postgres -d postgres

The password of the configuration is not read and not printed.

With --certificates print the SQL that creates the tables for storage_dsn of an acme block instead, to be run in its
database by its role. The proxy does so itself where the role may.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if certificates {
				_, err := io.WriteString(cmd.OutOrStdout(), certstore.Schema)
				return err
			}
			cfg, diags := loadConfigWithoutSecrets(*configPath)
			if cfg == nil { // warnings are for check and serve
				return reportDiagnostics(cmd.ErrOrStderr(), *configPath, diags)
			}
			cluster, err := chooseCluster(cfg.Clusters, args)
			if err != nil {
				return err
			}
			return writeSQL(cmd.OutOrStdout(), cluster.Monitor, cfg.secretScope(cluster.Monitor.Cluster))
		},
	}
	cmd.Flags().BoolVar(&certificates, "certificates", false, "print the tables that proxies share certificates in")
	return cmd
}

// chooseCluster returns the cluster named, or the only one there is.
func chooseCluster(clusters []proxy.ClusterConfig, args []string) (proxy.ClusterConfig, error) {
	var names []string
	for _, cluster := range clusters {
		if len(args) == 1 && args[0] == cluster.Monitor.Cluster {
			return cluster, nil
		}
		names = append(names, cluster.Monitor.Cluster)
	}
	switch {
	case len(args) == 1:
		return proxy.ClusterConfig{}, usageError{fmt.Errorf("no cluster is called %q: the file has %s", args[0], quoted(names))}
	case len(clusters) > 1:
		return proxy.ClusterConfig{}, usageError{errors.New("name one of the clusters: " + quoted(names))}
	default:
		return clusters[0], nil
	}
}

// sqlScript runs on PostgreSQL 14 and later, once or again. Its arguments: cluster, body of DO with its quotes, role,
// database, lines of pg_hba.conf.
const sqlScript = `-- The role with which pgreplicaproxy watches the servers of cluster "%[1]s".
-- Run this as a superuser on the primary; the standbys follow by replication. Running it again does no harm.

DO %[2]s;

-- pg_monitor shows it whom a standby streams from and on which timeline, by which two servers that both claim to be primary
-- are told apart; statistics, settings and what others run too, and no table ("Predefined Roles" in the PostgreSQL manual).
-- Without it the proxy works, and stops serving writes in more conflicts.
GRANT pg_monitor TO %[3]s;
GRANT CONNECT ON DATABASE %[4]s TO %[3]s;

-- Give it the password that the configuration names. psql asks for it and sends only its SCRAM hash:
--   \password %[3]s
-- Each proxy keeps one connection to each server. To bound them, with room for restarts and further proxies:
--   ALTER ROLE %[3]s CONNECTION LIMIT 10;

-- pg_hba.conf of every server, with the proxy's address for 192.0.2.10/32, then SELECT pg_reload_conf():
%[5]s--
-- Never write trust for the proxy's address: to the server all clients of the proxy come from there, so whoever reaches
-- the proxy would log in as any role, superusers included.
`

// secretSQL makes the function from which authentication = "scram_passthrough" has its secrets. Its arguments: the monitor's
// role and database, whose secrets there are in words and as a condition. Names are qualified and the search path is fixed,
// because it runs with its owner's rights.
const secretSQL = `
-- For authentication = "scram_passthrough": the function that tells the monitor, and nobody else, the SCRAM secret of a role
-- that may log in. %[3]s Run this in the monitor's database, %[2]s.
CREATE SCHEMA IF NOT EXISTS pgreplicaproxy;
ALTER SCHEMA pgreplicaproxy OWNER TO CURRENT_USER; -- whoever owned it could replace the function
CREATE OR REPLACE FUNCTION pgreplicaproxy.scram_secret(role_name text) RETURNS text
LANGUAGE sql STABLE STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $function$
  SELECT a.rolpassword FROM pg_catalog.pg_authid AS a
  WHERE a.rolname = role_name AND a.rolcanlogin%[4]s
    AND pg_catalog.starts_with(a.rolpassword, 'SCRAM-SHA-256$')
    AND (a.rolvaliduntil IS NULL OR a.rolvaliduntil > pg_catalog.now())
$function$;
ALTER FUNCTION pgreplicaproxy.scram_secret(text) OWNER TO CURRENT_USER;
REVOKE ALL ON FUNCTION pgreplicaproxy.scram_secret(text) FROM PUBLIC;
GRANT USAGE ON SCHEMA pgreplicaproxy TO %[1]s;
GRANT EXECUTE ON FUNCTION pgreplicaproxy.scram_secret(text) TO %[1]s;
`

// secretScope says whose secrets the monitor may read.
type secretScope int

const (
	noSecrets secretScope = iota
	ordinarySecrets
	allSecrets
)

// secretScope is what the mode of a cluster needs.
func (cfg *config) secretScope(cluster string) secretScope {
	p, passthrough := cfg.Passthrough[cluster]
	switch {
	case !passthrough || p.SecretsFile != "":
		return noSecrets
	case p.Superusers:
		return allSecrets
	default:
		return ordinarySecrets
	}
}

// writeSQL prints the script for one cluster, with the function for SCRAM secrets or without. Names from the configuration are
// quoted for the place they stand in.
func writeSQL(w io.Writer, m backends.MonitorConfig, scope secretScope) error {
	role, database := quoteIdentifier(m.Credentials.User), quoteIdentifier(m.Credentials.Database)
	create := fmt.Sprintf(`BEGIN
  IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = %s) THEN
    CREATE ROLE %s LOGIN;
  END IF;
END`, quoteLiteral(m.Credentials.User), role)
	if _, err := fmt.Fprintf(w, sqlScript, m.Cluster, dollarQuote(create), role, database, hbaLines(m)); err != nil {
		return err
	}
	var err error
	switch scope {
	case ordinarySecrets:
		_, err = fmt.Fprintf(w, secretSQL, role, database, "Superusers are left out.", " AND NOT a.rolsuper")
	case allSecrets:
		_, err = fmt.Fprintf(w, secretSQL, role, database, "Superusers are among them.", "")
	}
	return err
}

// hbaLines are comments with one line for the monitor and one for the clients, for every kind of connection to the
// cluster's servers.
func hbaLines(m backends.MonitorConfig) string {
	var lines strings.Builder
	table := tabwriter.NewWriter(&lines, 0, 0, 2, ' ', 0)
	seen := map[string]bool{}
	for _, t := range m.Targets {
		kind, address := "host", "192.0.2.10/32"
		switch {
		case t.Network == "unix":
			kind, address = "local", ""
		case t.TLS != backends.TLSOff:
			kind = "hostssl"
		}
		if seen[kind] {
			continue
		}
		seen[kind] = true
		fmt.Fprintf(table, "--   %s\t%s\t%s\t%s\tscram-sha-256\n",
			kind, quoteHBA(m.Credentials.Database), quoteHBA(m.Credentials.User), address)
		fmt.Fprintf(table, "--   %s\tall\tall\t%s\tscram-sha-256\n", kind, address)
	}
	table.Flush() // into memory
	return lines.String()
}

// quoteIdentifier quotes a name for SQL ("Identifiers and Key Words").
func quoteIdentifier(s string) string {
	return `"` + strings.ReplaceAll(s, `"`, `""`) + `"`
}

// quoteLiteral quotes a string for SQL as quote_literal does, so that it does not depend on standard_conforming_strings.
func quoteLiteral(s string) string {
	quoted := "'" + strings.ReplaceAll(s, "'", "''") + "'"
	if strings.Contains(s, `\`) {
		return "E" + strings.ReplaceAll(quoted, `\`, `\\`)
	}
	return quoted
}

// dollarQuote quotes the body of a DO command with a tag that does not occur in it.
func dollarQuote(body string) string {
	tag := "$role$"
	for strings.Contains(body, tag) {
		tag = tag[:len(tag)-1] + "_$"
	}
	return tag + "\n" + body + "\n" + tag
}

var plainHBA = regexp.MustCompile(`^[a-z0-9_]+$`)

// quoteHBA quotes a name for pg_hba.conf, where quotes also take keywords such as all for names.
func quoteHBA(s string) string {
	if plainHBA.MatchString(s) && !slices.Contains([]string{"all", "sameuser", "samerole", "samegroup", "replication"}, s) {
		return s
	}
	return quoteIdentifier(s)
}
