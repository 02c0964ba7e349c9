// Package certstore keeps certificates, keys and the ACME account of several proxies in a PostgreSQL database: it is a storage
// for certmagic, with locks that are leases, so that the work of a proxy that died is taken over.
//
// It keeps one connection, made when it is needed and made again after an error. Nothing is cached here; tlsfront has a copy
// of what it serves, for when the database is out of reach. Read store.go for the keys and values, lock.go for the leases,
// connection.go for how the database is talked to.
package certstore
