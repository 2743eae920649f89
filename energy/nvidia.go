package energy

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"time"
)

// nvidia is the power of NVIDIA's GPUs, as a nvidia-smi that runs beside the program
// prints it. Its counter of energy is not asked for: not every driver has it.
type nvidia struct {
	ready func()        // closes first
	first chan struct{} // closed when every GPU has given a value, or none will

	mu     sync.Mutex // held for what follows
	gpus   []*gpu
	values int    // given so far
	part   []byte // of a line that has begun
	said   string // the last line that was no value
	ended  string // why there are no more values
}

// gpu is one GPU. Between two values it draws what the first one says.
type gpu struct {
	index  int
	watts  float64
	heard  time.Time // when it gave that value
	joules float64   // drawn until at
	at     time.Time
	lost   string // why that is not known
}

const (
	sampleEvery = 100 * time.Millisecond
	// silence is how long a value may be used after it was given.
	silence = 5 * time.Second
	// patience is how long the first values may take: starting a driver takes seconds.
	patience = 10 * time.Second
)

const notInstalled = "nvidia-smi: not in PATH"

func newNVIDIA() *nvidia {
	n := &nvidia{first: make(chan struct{})}
	n.ready = sync.OnceFunc(func() { close(n.first) })
	return n
}

// wait returns when the first values are there, or when they cannot be expected any more.
func (n *nvidia) wait(ctx context.Context) {
	select {
	case <-n.first:
	case <-ctx.Done():
	case <-time.After(patience):
	}
}

// watch runs nvidia-smi until ctx ends. Where it ends by itself after values and without
// an error, as it could not loop, it is run again.
func (n *nvidia) watch(ctx context.Context) {
	defer n.ready()
	path, err := exec.LookPath("nvidia-smi")
	if err != nil {
		n.end(notInstalled)
		return
	}
	for before := -1; before != n.count(); {
		before = n.count()
		c := exec.CommandContext(ctx, path, "--query-gpu=index,power.draw", "--format=csv,noheader,nounits",
			fmt.Sprintf("--loop-ms=%d", sampleEvery.Milliseconds()))
		c.Stdout, c.Stderr = n, n
		c.WaitDelay = time.Second // for what it may have started itself
		err := c.Run()
		switch {
		case ctx.Err() != nil:
			n.end("nvidia-smi: the meter was closed")
			return
		case err != nil:
			n.end(fmt.Sprintf("nvidia-smi: %v", err))
			return
		case n.count() > before:
			n.ready()
			time.Sleep(sampleEvery)
		}
	}
	n.end("nvidia-smi: it printed no value and ended")
}

func (n *nvidia) count() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.values
}

// end says why there are no more values.
func (n *nvidia) end(why string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.ended = why; n.said != "" {
		n.ended += fmt.Sprintf(" (it says %.200q)", n.said)
	}
}

// Write takes what nvidia-smi prints.
func (n *nvidia) Write(b []byte) (int, error) {
	const longest = 4096 // of a line
	now := time.Now()
	n.mu.Lock()
	defer n.mu.Unlock()
	n.part = append(n.part, b...)
	for {
		line, rest, whole := bytes.Cut(n.part, []byte("\n"))
		if !whole {
			break
		}
		n.line(strings.TrimSpace(string(line)), now)
		n.part = rest
	}
	n.part = bytes.Clone(n.part[:min(len(n.part), longest)])
	return len(b), nil
}

// line takes a line, "0, 70.31", that came at a time.
func (n *nvidia) line(text string, now time.Time) {
	number, power, _ := strings.Cut(text, ",")
	index, err := strconv.Atoi(strings.TrimSpace(number))
	if err != nil || index < 0 {
		if text != "" {
			n.said = text
		}
		return
	}
	n.values++
	var g *gpu
	for _, known := range n.gpus {
		if known.index == index {
			g = known
			n.ready() // the second round has begun
		}
	}
	if g == nil {
		if len(n.gpus) == 0 { // where there will be no second round
			time.AfterFunc(10*sampleEvery, n.ready)
		}
		g = &gpu{index: index, heard: now, at: now}
		n.gpus = append(n.gpus, g)
	}
	g.until(now)
	power = strings.TrimSuffix(strings.TrimSpace(power), " W")
	watts, err := strconv.ParseFloat(power, 64)
	if err != nil || !(watts >= 0 && watts <= mostWatts) {
		g.lost = fmt.Sprintf("its power.draw is %.40q", power)
		return
	}
	g.watts, g.heard = watts, now
}

// until brings what was drawn up to a time.
func (g *gpu) until(now time.Time) {
	if quiet := now.Sub(g.heard); quiet > silence && g.lost == "" {
		g.lost = fmt.Sprintf("no value for %.0f seconds", quiet.Seconds())
	}
	if elapsed := now.Sub(g.at); elapsed > 0 {
		g.joules += g.watts * elapsed.Seconds()
		g.at = now
	}
}

// read returns the counters of all GPUs.
func (n *nvidia) read(now time.Time) (counters []counter, none string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, g := range n.gpus {
		if n.ended != "" && g.lost == "" {
			g.lost = n.ended
		}
		g.until(now)
		counters = append(counters, counter{nvidiaMeter, fmt.Sprintf("GPU-%d", g.index), true, g.joules, g.lost})
	}
	if len(n.gpus) == 0 {
		none = cmp.Or(n.ended, "nvidia-smi: it has printed no value yet")
	}
	return counters, none
}
