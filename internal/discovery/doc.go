// Package discovery finds out which servers a cluster has, where the configuration names a source instead of the servers: a DNS
// name with an address for each, or Patroni's REST interface.
//
// It says where servers are, never what they are: that is asked of the servers themselves. Patroni's word on who the leader is
// goes along, for package backends to believe in a conflict.
//
// A Finder follows the sources of a cluster for as long as it runs; Lookup asks them once.
//
// Read finder.go for when sources are asked and what becomes of their silence, dns.go and patroni.go for one answer of each.
package discovery
