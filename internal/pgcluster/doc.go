// Package pgcluster runs a throwaway PostgreSQL cluster on this machine: one primary and any number of physical
// standbys that stream from it, made in about a second and gone without a trace after Stop. The end-to-end tests
// and `pgreplicaproxy demo` both stand on it.
//
//	found, err := pgcluster.Find(0)
//	...
//	cluster, err := pgcluster.Start(ctx, pgcluster.Config{Installation: found, Standbys: 2})
//	...
//	defer cluster.Stop(context.Background())
//	err = cluster.Server("db1").Exec(ctx, "postgres", "CREATE DATABASE shop")
//
// The servers are children of this process. Each can be stopped, killed, frozen, promoted, made to follow another and
// rebuilt, which is what it takes to play every failover. The package never guesses who the primary is: db1 begins as
// it, and from then on the caller decides and the servers themselves tell.
//
// Nothing here is meant to keep data. Writes are not flushed to disk (fsync is off), so a crash of the machine, though
// not of a server, may lose them.
//
// It needs the server programs of PostgreSQL 13 or later (only initdb and postgres: standbys are copied, so there is
// no need of pg_basebackup) and Linux, whose /proc shows the processes of a server. It downloads nothing, writes only
// below Config.Dir, and speaks to the servers over their unix socket alone.
//
// # When this process dies
//
// Stop leaves no process, no shared memory and no file behind. If this process is killed before it can call Stop, the
// kernel sends each postmaster SIGQUIT (prctl(2), PR_SET_PDEATHSIG) and the servers end at once; their files stay,
// and so does a server that is frozen at that moment.
//
// Read installation.go first, then config.go, cluster.go and server.go. process.go and os_linux.go hold what is
// particular to processes, replication.go what makes one server follow another.
package pgcluster
