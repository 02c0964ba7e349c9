package e2e

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/replicon/pgreplicaproxy/internal/pgcluster"
)

// witness watches, all the time, that the program never has sessions for writing on two servers at once. It believes
// neither the program nor the clients: the servers say who is on them (pg_stat_activity), and the kernel which of those
// connections the program still holds. So the process of a session that the program has ended does not count while it
// finds out, and one on a frozen server counts as long as the program keeps it.
type witness struct {
	report  func(string) // is called once at most
	servers []*pgcluster.Server
	lines   map[*pgcluster.Server]*line // the ways that lead to the servers, where they do not lead there directly
	cancel  context.CancelFunc
	work    sync.WaitGroup

	seen  map[*pgcluster.Server]map[int]string // sessions for writing: the program's port and the connection's inode
	looks int
}

// witnessPace is the pause between two looks.
const witnessPace = 20 * time.Millisecond

// startWitness watches the servers of a cluster until the function returned is called, or the end of the test, which fails if
// there is something to report.
func startWitness(t *testing.T, c *pgcluster.Cluster, lines map[*pgcluster.Server]*line) (stop func()) {
	t.Helper()
	w := &witness{report: func(text string) { t.Error(text) }, servers: c.Servers(), lines: lines}
	w.start()
	stop = sync.OnceFunc(func() {
		w.stop()
		if w.looks == 0 {
			t.Error("the witness has seen nothing")
		}
	})
	t.Cleanup(stop)
	return stop
}

func (w *witness) start() {
	w.seen = make(map[*pgcluster.Server]map[int]string)
	ctx, cancel := context.WithCancel(context.Background())
	w.cancel = cancel
	w.work.Go(func() { w.watch(ctx) })
}

func (w *witness) stop() {
	w.cancel()
	w.work.Wait()
}

// TestWitness holds the witness to what it is to find: sessions for writing on two servers, and not the process of one that
// its client has left.
func TestWitness(t *testing.T) {
	c := sharedCluster(t, versions[0])
	reported := make(chan string, 1)
	w := &witness{report: func(text string) { reported <- text }, servers: c.Servers()}
	w.start()
	defer w.stop()
	open := func(s *pgcluster.Server) *pgconn.PgConn {
		return connect(t, "postgresql://"+appUser+":"+appPassword+"@"+serverAddress(s)+"/app?sslmode=disable&application_name="+writerName)
	}
	left := open(c.Server("db1"))
	query := startQuery(testContext(t), left, endless(once("left")))
	_ = left.Conn().Close() // the server goes on with the query
	<-query
	first := open(c.Server("db2"))
	for range 20 {
		ask(t, first, "SELECT pg_sleep(0.02)")
	}
	select {
	case text := <-reported:
		t.Errorf("reported although one server had sessions: %s", text)
	default:
	}
	open(c.Server("db3"))
	select {
	case text := <-reported:
		if !strings.Contains(text, "db2:1") || !strings.Contains(text, "db3:1") {
			t.Errorf("reported %q, want db2 and db3", text)
		}
	case <-time.After(patience):
		t.Error("sessions on two servers were not reported")
	}
}

// watch asks the servers side by side, so that one that hangs keeps nobody waiting.
func (w *witness) watch(ctx context.Context) {
	type answer struct {
		server *pgcluster.Server
		ports  []int
	}
	answers := make(chan answer)
	for _, s := range w.servers {
		w.work.Go(func() {
			var conn *pgconn.PgConn
			for ctx.Err() == nil {
				var ports []int
				if conn, ports = w.ask(ctx, conn, s); ports != nil {
					select {
					case answers <- answer{s, ports}:
					case <-ctx.Done():
					}
				}
				select {
				case <-time.After(witnessPace):
				case <-ctx.Done():
				}
			}
			if conn != nil {
				ended, cancel := context.WithTimeout(context.Background(), time.Second)
				defer cancel()
				_ = conn.Close(ended)
			}
		})
	}
	for {
		select {
		case a := <-answers:
			w.note(a.server, a.ports)
			w.look()
		case <-ctx.Done():
			return
		}
	}
}

// ask returns the program's ports of the sessions for writing on a server, nil if it does not answer.
func (w *witness) ask(ctx context.Context, conn *pgconn.PgConn, s *pgcluster.Server) (*pgconn.PgConn, []int) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if conn == nil || conn.IsClosed() {
		var err error
		if conn, err = s.Conn(ctx, "postgres"); err != nil {
			return nil, nil
		}
	}
	results, err := conn.Exec(ctx, "SELECT client_port FROM pg_stat_activity WHERE application_name = '"+writerName+"'").ReadAll()
	if err != nil {
		return conn, nil
	}
	ports := make([]int, 0, len(results[0].Rows))
	for _, row := range results[0].Rows {
		port, _ := strconv.Atoi(string(row[0]))
		if l := w.lines[s]; l != nil {
			port = l.nearPort(port)
		}
		ports = append(ports, port)
	}
	return conn, ports
}

// note replaces what is known of a server by its answer. A port may be another connection's later, so that its inode is kept.
func (w *witness) note(s *pgcluster.Server, ports []int) {
	open := connections(w.address(s))
	w.seen[s] = make(map[int]string)
	for _, port := range ports {
		if inode, ok := open[port]; ok {
			w.seen[s][port] = inode
		}
	}
}

// address is where the program reaches a server: the port only.
func (w *witness) address(s *pgcluster.Server) int {
	if l := w.lines[s]; l != nil {
		return localPortOf(l.address)
	}
	return s.Port
}

// look checks that all sessions for writing which the program holds are on one server. A connection that is open in two
// looks one after the other was open all the time between them, so two such on two servers were open at once.
func (w *witness) look() {
	w.looks++
	if first := w.held(); len(first) > 1 {
		both := make(map[string]int)
		for name, inodes := range w.held() {
			for inode := range inodes {
				if first[name][inode] {
					both[name]++
				}
			}
		}
		if len(both) > 1 {
			w.report(fmt.Sprintf("sessions for writing are open on several servers at %s: %v", time.Now().Format("15:04:05.000"), both))
			w.cancel()
		}
	}
}

// held returns the sessions for writing that the program holds, by the server's name.
func (w *witness) held() map[string]map[string]bool {
	held := make(map[string]map[string]bool)
	for _, s := range w.servers {
		if len(w.seen[s]) == 0 {
			continue
		}
		open := connections(w.address(s))
		for port, inode := range w.seen[s] {
			if open[port] == inode {
				if held[s.Name] == nil {
					held[s.Name] = make(map[string]bool)
				}
				held[s.Name][inode] = true
			}
		}
	}
	return held
}

// connections returns the established connections to a port of this machine, as their clients have them: the client's port
// and the inode of its socket (proc(5), /proc/net/tcp).
func connections(to int) map[int]string {
	file, err := os.Open("/proc/net/tcp")
	if err != nil {
		return nil
	}
	defer func() { _ = file.Close() }()
	remote, open := fmt.Sprintf(":%04X", to), make(map[int]string)
	for lines := bufio.NewScanner(file); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) < 10 || fields[3] != "01" || !strings.HasSuffix(fields[2], remote) {
			continue
		}
		_, hex, _ := strings.Cut(fields[1], ":")
		if port, err := strconv.ParseUint(hex, 16, 16); err == nil {
			open[int(port)] = fields[9]
		}
	}
	return open
}

// localPortOf is the port of an address.
func localPortOf(address string) int {
	_, text, _ := net.SplitHostPort(address)
	port, _ := strconv.Atoi(text)
	return port
}
