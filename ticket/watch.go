package ticket

import (
	"fmt"
	"os"
	"sync"
	"time"
)

// WatchRing is LoadRing for a file that changes. It checks the file every interval and, after a change, replaces the keys of
// the ring with those of the file. When the new file cannot be read or parsed, the ring keeps its keys and onError, which
// may be nil, is called once for each such change. stop ends the watching and waits until it has ended.
func WatchRing(path string, interval time.Duration, onError func(error)) (r *Ring, stop func(), err error) {
	if interval <= 0 {
		return nil, nil, fmt.Errorf("ticket: key ring %s: a watching interval of %s", path, interval)
	}
	seen := stateOf(path) // before loading, so that the next check notices a change in between
	if r, err = LoadRing(path); err != nil {
		return nil, nil, err
	}
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(interval)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
			}
			now := stateOf(path)
			if now == seen {
				continue
			}
			seen = now
			fresh, err := LoadRing(path)
			if err == nil {
				err = r.Replace(fresh)
			}
			if err != nil && onError != nil {
				onError(err)
			}
		}
	}()
	var once sync.Once
	return r, func() {
		once.Do(func() { close(done) })
		<-ended
	}, nil
}

// fileState is compared to notice that a file has changed. Save gives the file a new modification time, to the nanosecond.
type fileState struct {
	modified time.Time
	size     int64
	mode     os.FileMode
	err      string
}

func stateOf(path string) fileState {
	info, err := os.Stat(path)
	if err != nil {
		return fileState{err: err.Error()}
	}
	return fileState{modified: info.ModTime(), size: info.Size(), mode: info.Mode()}
}
