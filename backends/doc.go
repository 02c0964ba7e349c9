// Package backends knows the servers: how to reach one (Dial), and what each of them is at the moment (Monitor).
//
//	m := backends.NewMonitor(backends.MonitorConfig{Cluster: "main", Targets: targets, Credentials: credentials})
//	go m.Run(ctx)
//	<-m.FirstRound()
//	view := policy.View{"main": m.Snapshot().Backends}
//
// Roles come from the servers themselves (pg_is_in_recovery), never from configuration, and a server of which nothing
// certain is known has the role policy.Unknown, which is never served.
//
// The monitor's credentials exist in this package only; what it dials for clients it hands over before the startup packet,
// and reads nothing from it. Which server a session gets is package policy's business, and what becomes of the sessions of a
// server that changes its role is internal/proxy's.
//
// Read target.go and dial.go for the way to a server, snapshot.go for what is published and publish.go for when, judge.go and
// contest.go for how contradictions between servers are settled, memory.go and statefile.go for what is remembered of them,
// lag.go for how far a standby is behind, record.go for what one server's answers mean, watch.go for when it is asked,
// roster.go for servers that come and go, login.go and query.go for how.
package backends
