// Package proxy is the life of one session, put together from the packages around it: a client from tlsfront, a decision
// of policy, a server leg from backends, the login between the two, and then internal/relay until the end.
//
// It passes authentication on message by message and looks at kinds, never at secrets: no field here could hold a
// password. It decides nothing about roles and keeps no configuration format.
//
// Read server.go for what lives as long as the program, session.go for one session from top to bottom, request.go for what it
// asks for, login.go and authenticate.go for the part before AuthenticationOk, ending.go for its end, cancel.go for
// CancelRequest, fence.go for sessions that must end because their server changed its role or is gone from the
// configuration, update.go for how that changes.
package proxy
