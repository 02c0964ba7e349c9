package admin

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"net"
	"net/http"
	"strings"
	"time"
)

// answerTimeout is how long a client may take to read an answer that is no stream.
const answerTimeout = 30 * time.Second

// guard stands before every page. Where the listener is on loopback, a web page from elsewhere must not read it through a
// name that was made to lead here (DNS rebinding), so the host that is asked for has to be this machine. Nothing is stored,
// framed or run that does not come from here.
func (c *Config) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Cache-Control", "no-store")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; "+
			"img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
		if c.Local && !c.rightHost(r) {
			writeText(w, http.StatusMisdirectedRequest, "this listener answers to localhost and loopback addresses alone\n")
			return
		}
		if !strings.HasPrefix(r.URL.Path, "/debug/pprof/") {
			_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(answerTimeout)) // tests' recorders have none
		}
		next.ServeHTTP(w, r)
	})
}

// rightHost reports whether a request to a local listener names this machine. On a unix socket the name means nothing.
func (c *Config) rightHost(r *http.Request) bool {
	if addr, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); ok && addr.Network() == "unix" {
		return true
	}
	host := r.Host
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	ip := net.ParseIP(strings.Trim(host, "[]"))
	return strings.EqualFold(host, "localhost") || ip != nil && ip.IsLoopback()
}

// reader lets those through who may read.
func (c *Config) reader(next http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !c.mayRead(r) {
			c.refuse(w, "a client certificate, or the token")
			return
		}
		next(w, r)
	})
}

// mayRead reports whether the client may know what is going on.
func (c *Config) mayRead(r *http.Request) bool {
	return c.Local || r.TLS != nil && len(r.TLS.VerifiedChains) > 0 || c.mayChange(r)
}

// mayChange reports whether the client has the token. It comes in a header that no web page of another origin can set, and
// in no other way, so that a browser cannot be made to send it.
func (c *Config) mayChange(r *http.Request) bool {
	got, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	a, b := sha256.Sum256([]byte(got)), sha256.Sum256([]byte(c.Token))
	return ok && c.Token != "" && subtle.ConstantTimeCompare(a[:], b[:]) == 1
}

func (c *Config) refuse(w http.ResponseWriter, wanted string) {
	w.Header().Set("WWW-Authenticate", "Bearer")
	writeText(w, http.StatusUnauthorized, "this takes "+wanted+": Authorization: Bearer TOKEN\n")
}

func writeText(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write([]byte(text))
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	_ = enc.Encode(v)
}
