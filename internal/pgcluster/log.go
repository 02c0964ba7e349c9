package pgcluster

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"time"
)

// failedToBind tells whether the server logged in this run that it could not listen on one of its addresses
// (StreamServerPort in pqcomm.c; the message is not translated in locale C).
func (s *Server) failedToBind() bool {
	return bytes.Contains(s.logOfRun(), []byte("could not bind IPv"))
}

// explain adds to an error what the server logged last.
func (s *Server) explain(err error) error {
	return fmt.Errorf("%w; %s logged last:\n%s", err, s.Name, lastLines(s.logOfRun()))
}

// logOfRun returns what the server has logged since it was last started.
func (s *Server) logOfRun() []byte {
	s.mu.Lock()
	start := s.logStart
	s.mu.Unlock()
	log, err := os.ReadFile(s.LogFile)
	if err != nil || int64(len(log)) < start {
		return nil
	}
	return log[start:]
}

// logCopier copies the log files of all servers to one writer as they grow. The servers do not write to a pipe,
// because a full pipe would halt them whenever its reader does, and a broken one would swallow their last words. The
// zero value copies nothing.
type logCopier struct {
	to      io.Writer
	servers []*Server
	read    []int64 // how far each log was copied
	quit    chan struct{}
	done    chan struct{}
}

// copyInterval is how late a line may arrive.
const copyInterval = 100 * time.Millisecond

// start begins to copy.
func (l *logCopier) start(to io.Writer, servers []*Server) {
	l.to, l.servers, l.read = to, servers, make([]int64, len(servers))
	l.quit, l.done = make(chan struct{}), make(chan struct{})
	go l.run()
}

// stop copies what is left and returns when nothing is written any more. It may be called again.
func (l *logCopier) stop() {
	if l.quit == nil {
		return
	}
	close(l.quit)
	<-l.done
	l.quit = nil
}

// run copies until stop.
func (l *logCopier) run() {
	defer close(l.done)
	ticker := time.NewTicker(copyInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			l.copyNew()
		case <-l.quit:
			l.copyNew()
			return
		}
	}
}

// copyNew copies the lines that were finished since the last time. What cannot be read or written is left out: a log
// that fails must not disturb the cluster.
func (l *logCopier) copyNew() {
	for i, s := range l.servers {
		file, err := os.Open(s.LogFile)
		if err != nil {
			continue
		}
		news, _ := io.ReadAll(io.NewSectionReader(file, l.read[i], 1<<40))
		_ = file.Close()
		finished := bytes.LastIndexByte(news, '\n') + 1
		l.read[i] += int64(finished)
		for line := range bytes.Lines(news[:finished]) {
			_, _ = fmt.Fprintf(l.to, "%s: %s", s.Name, line)
		}
	}
}
