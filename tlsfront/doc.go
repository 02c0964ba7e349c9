// Package tlsfront receives clients: it accepts connections, answers their negotiation requests, terminates TLS and reads
// the one packet that says what they want, a StartupMessage or a CancelRequest. Where a proxy stands before it, its PROXY
// header tells who the client is (proxyheader.go). It also holds the sources of certificates: an ACME server (acme.go), files
// (certfile.go, certset.go) and a local certificate authority (localca.go).
//
// It reads exactly one packet at a time, so that nothing sent before the TLS handshake can pass for something sent inside
// it, and one deadline covers all of it. What it leaves alone: where a session goes and whether it may (policy,
// internal/proxy), and every byte after the opening packet.
//
// Read listener.go for the life of a connection, negotiate.go for the order of the packets, which follows
// ProcessSSLStartup and ProcessStartupPacket in PostgreSQL's src/backend/tcop/backend_startup.c.
package tlsfront
