package servertest

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"
)

// Command runs one command on a server that speaks the Redis protocol, over a connection of its own. It returns a string as it is, a
// list as one line an element, and nil as "". An error from the server fails the test.
func (s *Server) Command(args ...string) string {
	s.t.Helper()
	nc, err := net.Dial("tcp", s.Addr)
	if err != nil {
		s.t.Fatal(err)
	}
	defer nc.Close()
	nc.SetDeadline(time.Now().Add(patience))
	fmt.Fprintf(nc, "*%d\r\n", len(args))
	for _, a := range args {
		fmt.Fprintf(nc, "$%d\r\n%s\r\n", len(a), a)
	}
	answer, err := reply(bufio.NewReader(nc))
	if err != nil {
		s.t.Fatalf("%s: %s: %v", s.Addr, args[0], err)
	}
	return answer
}

func reply(r *bufio.Reader) (string, error) {
	line, err := r.ReadString('\n')
	if err != nil {
		return "", err
	}
	kind, rest := line[0], strings.TrimSpace(line[1:])
	switch kind {
	case '+', ':':
		return rest, nil
	case '-':
		return "", fmt.Errorf("%s", rest)
	}
	n, err := strconv.Atoi(rest)
	if err != nil {
		return "", fmt.Errorf("unexpected answer %q", line)
	}
	if kind == '*' {
		var all []string
		for range n {
			element, err := reply(r)
			if err != nil {
				return "", err
			}
			all = append(all, element)
		}
		return strings.Join(all, "\n"), nil
	}
	if n < 0 {
		return "", nil
	}
	b := make([]byte, n+2)
	_, err = io.ReadFull(r, b)
	return string(b[:max(n, 0)]), err
}
