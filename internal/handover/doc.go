// Package handover gives a process the listening sockets of others: those that systemd opened for it (socket activation),
// and those of a running program that it is to replace (upgrade). In both cases the sockets stay open all the time, so that
// no connection is refused and none is lost in a queue.
//
// It knows nothing of what the sockets are for. Read sockets.go for what a process is given, successor.go for how a program
// starts the one that replaces it.
package handover
