// Package page looks at the page of sslsess serve -http as people do: in a browser. It is a module of its own to keep
// the browser's driver out of the main go.mod.
package page

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/accessibility"
	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	cdplog "github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"
)

// patience is for what happens within seconds unless it is broken.
const patience = 2 * time.Minute

// sslsess is the command, built for these tests.
var sslsess string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "page")
		if err != nil {
			panic(err)
		}
		defer os.RemoveAll(dir)
		sslsess = filepath.Join(dir, "sslsess")
		build := exec.Command("go", "build", "-o", sslsess, "./cmd/sslsess")
		build.Dir, build.Stderr = filepath.Join("..", ".."), os.Stderr
		if err := build.Run(); err != nil {
			fmt.Fprintln(os.Stderr, "build sslsess:", err)
			return 1
		}
		return m.Run()
	}())
}

// server is a process of sslsess serve.
type server struct {
	t         *testing.T
	tls, page string // addresses
	stop      func()
}

func serve(t *testing.T, args ...string) *server {
	t.Helper()
	s := &server{t: t}
	cmd := exec.Command(sslsess, append([]string{"serve"}, args...)...)
	out, in, err := os.Pipe() // both streams
	require.NoError(t, err)
	cmd.Stdout, cmd.Stderr = in, in
	require.NoError(t, cmd.Start())
	in.Close()
	s.stop = sync.OnceFunc(func() {
		cmd.Process.Kill()
		cmd.Wait()
		out.Close()
	})
	t.Cleanup(s.stop)
	lines := bufio.NewScanner(out)
	for s.tls == "" || s.page == "" {
		require.True(t, lines.Scan(), "it ended")
		if _, addr, ok := strings.Cut(lines.Text(), "http on "); ok {
			s.page = addr
		} else if addr, ok := strings.CutPrefix(lines.Text(), "listening on "); ok {
			s.tls = addr
		}
	}
	go func() {
		for lines.Scan() {
		}
	}()
	return s
}

// shake makes n handshakes of a mode, besides one full one for each of the modes that resume.
func (s *server) shake(mode string, n int) {
	s.t.Helper()
	out, err := exec.Command(sslsess, "bench", "-insecure", "-c", "1", "-mode", mode, "-n", fmt.Sprint(n), s.tls).CombinedOutput()
	require.NoError(s.t, err, "%s", out)
}

// tab is a browser that looks at one page.
type tab struct {
	t   *testing.T
	ctx context.Context

	mu       sync.Mutex
	errors   []string // of scripts and of the policy
	requests []string
}

// open starts a browser of its own.
func open(t *testing.T, url string, width, height int64) *tab {
	t.Helper()
	chromium, err := exec.LookPath("chromium")
	require.NoError(t, err, "tests/setup.sh chromium installs it")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewExecAllocator(ctx, chromedp.ExecPath(chromium), chromedp.UserDataDir(t.TempDir()),
		chromedp.Headless, chromedp.NoSandbox, chromedp.DisableGPU, chromedp.NoFirstRun, chromedp.NoDefaultBrowserCheck,
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-background-networking", true),
		chromedp.Flag("disable-component-update", true), chromedp.Flag("disable-sync", true),
		chromedp.Flag("disable-dev-shm-usage", true))
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewContext(ctx)
	t.Cleanup(cancel)

	b := &tab{t: t, ctx: ctx}
	listen(b, runtime.ExceptionThrown, func(e runtime.EventExceptionThrown) {
		b.errors = append(b.errors, fmt.Sprintf("%+v", *e.ExceptionDetails))
	})
	listen(b, runtime.ConsoleAPICalled, func(e runtime.EventConsoleAPICalled) {
		b.errors = append(b.errors, "console."+string(e.Type))
	})
	listen(b, cdplog.EntryAdded, func(e cdplog.EventEntryAdded) {
		if e.Entry.Source != cdplog.EntrySourceNetwork { // a server that is away
			b.errors = append(b.errors, e.Entry.Text)
		}
	})
	listen(b, network.RequestWillBeSent, func(e network.EventRequestWillBeSent) {
		b.requests = append(b.requests, e.Request.URL)
	})
	command(b, cdplog.Enable, cdp.Empty{})
	command(b, network.Enable, network.EnableParams{})
	b.size(width, height)
	b.do(chromedp.Navigate(url))
	return b
}

func listen[E any](b *tab, event cdp.Event[E], f func(E)) {
	events := chromedp.Events(b.ctx, event)
	go func() {
		for e, err := range events {
			if err != nil {
				return // the browser has ended
			}
			b.mu.Lock()
			f(e)
			b.mu.Unlock()
		}
	}()
}

func command[P, R any](b *tab, c cdp.Command[P, R], params P) R {
	b.t.Helper()
	result, err := chromedp.Run(b.ctx, func(ctx context.Context, t *chromedp.Target) (R, error) { return cdp.Call(ctx, t, c, params) })
	require.NoError(b.t, err)
	return result
}

func (b *tab) do(action chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	require.NoError(b.t, chromedp.Do(b.ctx, action))
}

func (b *tab) size(width, height int64) {
	b.t.Helper()
	b.do(chromedp.EmulateViewport(width, height))
}

// wait waits until a JavaScript expression is true.
func (b *tab) wait(expression string) {
	b.t.Helper()
	err := chromedp.Do(b.ctx, chromedp.Poll[chromedp.Void](expression, chromedp.WithPollingInterval(50*time.Millisecond), chromedp.WithPollingTimeout(patience/2)))
	require.NoError(b.t, err, "%s\n%s", expression, eval[string](b, `document.body.innerText`))
}

func eval[T any](b *tab, expression string) T {
	b.t.Helper()
	v, err := chromedp.Run(b.ctx, chromedp.Evaluate[T](expression))
	require.NoError(b.t, err, expression)
	return v
}

// sound wants no error of any script, and no request but to the server itself.
func (b *tab) sound(s *server) {
	b.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	require.Empty(b.t, b.errors)
	require.NotEmpty(b.t, b.requests)
	for _, url := range b.requests {
		require.True(b.t, strings.HasPrefix(url, "http://"+s.page+"/") || url == "data:,", url)
	}
}

// number is a table's number, by the name in front of it.
func number(table, name string) string {
	return fmt.Sprintf(`[...document.querySelectorAll("#%s tr")].find(tr => tr.cells[0].textContent === %q)?.cells[1].textContent`, table, name)
}

func TestPage_ShowsWhatHappens(t *testing.T) {
	const name = `fra-2 <b id="made">&amp;`
	s := serve(t, "-listen", "127.0.0.1:0", "-http", "127.0.0.1:0", "-node", name)
	b := open(t, "http://"+s.page+"/", 1200, 900)
	b.wait(`document.getElementById("state").textContent === "live"`)
	require.Equal(t, name, eval[string](b, `document.querySelector("h1").textContent`))
	require.True(t, eval[bool](b, `document.getElementById("made") === null`), "a name is text")
	require.Contains(t, eval[string](b, `document.getElementById("openssl").textContent`), "OpenSSL")
	require.Equal(t, "0", eval[string](b, number("handshakes", "full")))
	require.Equal(t, "–", eval[string](b, `document.getElementById("now-share").textContent`), "of nothing")
	require.Empty(t, eval[string](b, `document.querySelector("#share .share")?.getAttribute("d") ?? ""`))
	require.Equal(t, "in 29 days", eval[string](b, `document.getElementById("now-certificate").textContent`))
	require.Equal(t, "0", eval[string](b, number("handshakes", "failed")))

	plain, err := net.Dial("tcp", s.tls)
	require.NoError(t, err)
	defer plain.Close()
	b.wait(`document.getElementById("now-under-way").textContent === "1"`)
	_, err = io.WriteString(plain, "GET / HTTP/1.1\r\n\r\n")
	require.NoError(t, err)
	b.wait(number("handshakes", "failed") + ` === "1"`)
	require.Equal(t, "1", eval[string](b, number("handshakes", "not TLS")))

	s.shake("full", 12)
	b.wait(number("handshakes", "full") + ` === "12"`)
	b.wait(`document.querySelector("#rate .full").getAttribute("d") !== ""`)
	b.wait(`document.querySelector("#share .share").getAttribute("d") !== ""`)
	require.Equal(t, "0 %", eval[string](b, `document.getElementById("now-share").textContent`))
	height := eval[float64](b, `document.querySelector("#share .share").getBBox().y`)
	require.Empty(t, eval[string](b, `document.querySelector("#rate .resumed").getAttribute("d")`))

	s.shake("resumed", 1207)
	b.wait(number("handshakes", "resumed") + ` === "1,207"`)
	b.wait(number("handshakes", "full") + ` === "13"`)
	require.Equal(t, "1,207", eval[string](b, number("lookups", "found and used")))
	require.Regexp(t, `^[0-9.]+ (µs|ms)$`, eval[string](b, number("handshakes", "mean time, resumed")))
	b.wait(`document.querySelector("#rate .resumed").getAttribute("d") !== ""`)
	b.wait(`document.getElementById("now-share").textContent === "98.9 %"`)
	require.Less(t, eval[float64](b, `document.querySelector("#share .share").getBBox().y`), height-20, "the line has risen")
	b.wait(`document.getElementById("share-text").textContent === "In the last minute 98.9 % of 1,220."`)

	// Nothing is drawn beside a graph.
	require.Empty(t, eval[[]string](b, `[...document.querySelectorAll("svg")].flatMap(svg => {
		const frame = svg.getBoundingClientRect();
		return [...svg.querySelectorAll("path, line, text")].map(e => [e, e.getBoundingClientRect()]).filter(([, box]) => box.width > 0 &&
			(box.left < frame.left - 2 || box.top < frame.top - 2 || box.right > frame.right + 2 || box.bottom > frame.bottom + 4)).map(([e]) => e.outerHTML);
	})`))
	b.sound(s)
}

func TestPage_FitsANarrowWindow(t *testing.T) {
	s := serve(t, "-listen", "127.0.0.1:0", "-http", "127.0.0.1:0", "-node", strings.Repeat("averylongname", 6))
	s.shake("mixed", 10)
	b := open(t, "http://"+s.page+"/", 1200, 900)
	b.wait(`document.querySelector("#share .share")?.getAttribute("d") > ""`)
	for _, width := range []int64{320, 500, 1200} {
		b.size(width, 700)
		b.wait(fmt.Sprintf(`innerWidth === %d && document.querySelector("svg").viewBox.baseVal.width === document.querySelector("svg").clientWidth`, width))
		require.LessOrEqual(t, eval[int64](b, `document.documentElement.scrollWidth`), width, "it scrolls sideways")
		require.True(t, eval[bool](b, `[...document.querySelectorAll("section, td, th, dd")].every(e => {
			const box = e.getBoundingClientRect();
			return box.width > 0 && box.left >= 0 && box.right <= innerWidth;
		})`), "%d pixels", width)
		// Labels of an axis do not run into each other.
		require.True(t, eval[bool](b, `[...document.querySelectorAll("svg")].every(svg => {
			const boxes = [...svg.querySelectorAll("text")].filter(e => e.textContent).map(e => e.getBoundingClientRect());
			return boxes.every((a, i) => boxes.slice(i + 1).every(b => a.right < b.left || b.right < a.left || a.bottom <= b.top + 2 || b.bottom <= a.top + 2));
		})`), "%d pixels", width)
	}
	b.sound(s)
}

// contrast is the least that any text has against what is behind it, by the formula of WCAG 2.
const contrast = `(() => {
	const parse = color => color.match(/[\d.]+/g).map(Number);
	const light = ([r, g, b]) => [r, g, b].map(v => v / 255).map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
		.reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
	const behind = e => {
		const c = parse(getComputedStyle(e).backgroundColor);
		return c.length === 3 || c[3] === 1 ? c : behind(e.parentElement);
	};
	return Math.min(...[...document.querySelectorAll("h1, h2, p, dt, dd, th, td, a, svg text")].map(e => {
		const style = getComputedStyle(e);
		const a = light(parse(e.namespaceURI.endsWith("svg") ? style.fill : style.color)), b = light(behind(e));
		return (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
	}));
})()`

func TestPage_IsReadable(t *testing.T) {
	s := serve(t, "-listen", "127.0.0.1:0", "-http", "127.0.0.1:0")
	s.shake("mixed", 10)
	b := open(t, "http://"+s.page+"/", 1200, 900)
	b.wait(`document.querySelector("#share .share")?.getAttribute("d") > ""`)
	var colors []string
	for _, scheme := range []string{"light", "dark"} {
		command(b, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
			Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}},
		})
		require.GreaterOrEqual(t, eval[float64](b, contrast), 4.5, scheme)
		colors = append(colors, eval[string](b, `getComputedStyle(document.body).backgroundColor`))
	}
	require.NotEqual(t, colors[0], colors[1])

	// A screen reader gets graphs as a sentence, and numbers with their names.
	var graphs, rows, headings []string
	for _, n := range command(b, accessibility.GetFullAXTree, accessibility.GetFullAXTreeParams{}).Nodes {
		if n.Role == nil || n.Name == nil {
			continue
		}
		switch name := string(n.Name.Value); string(n.Role.Value) {
		case `"image"`:
			graphs = append(graphs, name)
		case `"rowheader"`:
			rows = append(rows, name)
		case `"heading"`:
			headings = append(headings, name)
		}
	}
	require.Len(t, graphs, 2)
	require.Contains(t, graphs[0], "In the last minute ")
	require.Contains(t, graphs[1], " a second in the last five minutes")
	require.Contains(t, rows, `"resumed"`)
	require.Len(t, headings, 7)
	b.sound(s)
}

// The page says when the server has gone and when it is back.
func TestPage_SaysThatTheServerIsGone(t *testing.T) {
	s := serve(t, "-listen", "127.0.0.1:0", "-http", "127.0.0.1:0", "-node", "first")
	b := open(t, "http://"+s.page+"/", 1200, 900)
	b.wait(`document.getElementById("state").textContent === "live"`)
	s.stop()
	b.wait(`document.getElementById("state").textContent === "no answer" && document.getElementById("state").className === "bad"`)
	require.Equal(t, "first", eval[string](b, `document.querySelector("h1").textContent`), "what was known stays")

	again := serve(t, "-listen", "127.0.0.1:0", "-http", s.page, "-node", "second")
	b.wait(`document.getElementById("state").textContent === "live"`)
	b.wait(`document.querySelector("h1").textContent === "second"`)

	// Another thing answers there: no JSON.
	again.stop()
	l, err := net.Listen("tcp", s.page)
	require.NoError(t, err)
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.Write([]byte("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno"))
			c.Close()
		}
	}()
	b.wait(`document.getElementById("state").textContent === "no answer"`)
	b.sound(s)
}
