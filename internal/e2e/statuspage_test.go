package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/replicon/pgreplicaproxy/internal/pgcluster"
)

// admin returns the address of the program's admin listener.
func (p *program) admin() string {
	p.t.Helper()
	address, _ := p.waitLog("admin listening", nil)["address"].(string)
	return "http://" + address
}

// holdSession keeps a session of psql open and busy until the test ends, or somebody ends it. It has begun when its server knows
// it.
func holdSession(t *testing.T, p *program, database, name string, servers ...*pgcluster.Server) {
	t.Helper()
	dsn := p.dsn(database, "application_name="+name)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _, _ = psql(t, "", dsn, "-c", "SELECT pg_sleep(300)")
	}()
	t.Cleanup(func() {
		p.stop() // which ends the session
		<-done
	})
	deadline := time.Now().Add(patience)
	for {
		for _, s := range servers {
			sql := "SELECT count(*) FROM pg_stat_activity WHERE application_name = '" + name + "' AND query LIKE '%pg_sleep%'"
			if n, err := s.QueryString(testContext(t), "postgres", sql); err == nil && n == "1" {
				return
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("session %s never began", name)
		}
	}
}

// document writes a picture of the page for the documentation, where PGREPLICAPROXY_SCREENSHOTS names a directory.
func (b *browser) document(name string) {
	b.t.Helper()
	if dir := os.Getenv("PGREPLICAPROXY_SCREENSHOTS"); dir != "" {
		b.screenshot(filepath.Join(dir, name))
	}
}

// The page through a failover, as it is watched: it shows the new primary without a reload.
func TestStatusPage(t *testing.T) {
	b := openBrowser(t)
	c := startCluster(t, pgcluster.Config{Standbys: 2})
	p := serve(t, listenHCL+adminHCL+clusterHCL(c))
	db1, db2, db3 := c.Server("db1"), c.Server("db2"), c.Server("db3")
	holdSession(t, p, "app", "writer", db1)
	holdSession(t, p, "app_replica", "reader", db2, db3)

	b.size(1200, 800, "light")
	b.open(p.admin() + "/")
	b.wait(`document.querySelector("#live").textContent === "live"`)
	b.wait(`document.querySelector("#server-main-db1 .badge").textContent === "primary"`)
	b.wait(`document.querySelector("#facts dd").textContent === "2"`)
	b.eval(`window.kept = true; document.querySelector("footer a").focus()`, nil)
	checkPage(t, b)
	b.document("status-before.png")

	if err := db1.KillAll(); err != nil {
		t.Fatal(err)
	}
	b.wait(`document.querySelector("#server-main-db1 .badge").textContent === "unknown"`)
	b.wait(`document.querySelector("#title-main").parentElement.textContent.includes("no primary")`)
	if err := db2.Promote(testContext(t)); err != nil {
		t.Fatal(err)
	}
	b.wait(`document.querySelector("#server-main-db2 .badge").textContent === "primary"`)
	b.wait(`document.querySelector(".servers tbody tr").id === "server-main-db2"`) // which stands first now
	b.wait(`document.querySelector("#news").textContent.includes("db2 is primary")`)
	b.wait(`document.querySelector(".events").textContent.includes("db2 is primary")`)
	b.wait(`document.querySelector(".events").textContent.includes("db1 is down")`)
	b.wait(`document.querySelector("#server-main-db2 svg").getAttribute("aria-label").includes("then primary")`)
	kept, focused := false, ""
	b.eval(`window.kept === true`, &kept)
	b.eval(`document.activeElement.textContent`, &focused)
	if !kept || focused != "status" {
		t.Errorf("the page was loaded again: kept %v, focus on %q", kept, focused)
	}
	b.document("status-after.png")
	checkPage(t, b)
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, address := range b.asked {
		if !strings.HasPrefix(address, p.admin()+"/") && address != "about:blank" {
			t.Errorf("the page asked for %s", address)
		}
	}
	if len(b.complaints) > 0 {
		t.Errorf("the browser complains: %s", b.complaints)
	}
}

// checkPage looks at the page in every size and scheme.
func checkPage(t *testing.T, b *browser) {
	t.Helper()
	for _, scheme := range []string{"dark", "light"} {
		for _, width := range []int{390, 1200} {
			b.size(width, 800, scheme)
			var wide []string
			b.eval(`document.documentElement.scrollWidth > innerWidth ? ["the page"] : []`, &wide)
			if len(wide) > 0 {
				t.Errorf("%d pixels, %s: wider than the screen", width, scheme)
			}
			var faint []string
			if b.eval(contrastScript, &faint); len(faint) > 0 {
				t.Errorf("%d pixels, %s: too little contrast: %q", width, scheme, faint)
			}
		}
	}
	var unnamed []string
	b.eval(namesScript, &unnamed)
	if len(unnamed) > 0 {
		t.Errorf("without a name for those who do not see: %q", unnamed)
	}
}

// contrastScript lists texts with less contrast than 4.5 to 1 (WCAG 2.2, success criterion 1.4.3).
const contrastScript = `(() => {
	const parse = (colour) => (colour.match(/[\d.]+/g) || []).map(Number);
	const luminance = ([r, g, b]) => [r, g, b].map((v) => v / 255)
		.map((v) => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
		.reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
	const ground = (e) => {
		for (; e; e = e.parentElement) {
			const colour = parse(getComputedStyle(e).backgroundColor);
			if (colour.length === 3 || colour[3] > 0) return colour;
		}
		return [255, 255, 255];
	};
	const faint = [];
	const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
	for (let node = texts.nextNode(); node; node = texts.nextNode()) {
		if (!node.textContent.trim() || node.parentElement.closest(".hidden, .skip, .changed, caption")) continue;
		const [a, b] = [luminance(parse(getComputedStyle(node.parentElement).color)), luminance(ground(node.parentElement))];
		const contrast = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
		if (contrast < 4.5) faint.push(node.textContent.trim() + " " + contrast.toFixed(1));
	}
	return faint;
})()`

// namesScript lists what a screen reader could not name: sections, tables and pictures without a label, and cells of which no
// heading tells what they are.
const namesScript = `(() => {
	const label = (e) => e.getAttribute("aria-label") || document.getElementById(e.getAttribute("aria-labelledby"))?.textContent ||
		e.querySelector("caption")?.textContent;
	const unnamed = [...document.querySelectorAll("section, table, svg")].filter((e) => !label(e)).map((e) => e.outerHTML.slice(0, 60));
	for (const name of ["header", "main", "footer", "h1", "h2"]) if (!document.querySelector(name)) unnamed.push(name);
	for (const table of document.querySelectorAll("table")) {
		const columns = table.querySelectorAll("thead th[scope=col]").length;
		for (const row of table.querySelectorAll("tbody tr")) {
			if (row.children.length !== columns || !row.querySelector("th[scope=row]")) unnamed.push(row.textContent.trim().slice(0, 60));
		}
	}
	return unnamed;
})()`
