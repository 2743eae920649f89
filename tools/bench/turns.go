//go:build linux

package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
)

// program stays loaded and does its work once for each line that it is sent, as
// tools/peers/worker.py describes.
type program struct {
	name    string
	command *exec.Cmd
	in      io.WriteCloser
	out     *bufio.Scanner
	stderr  bytes.Buffer

	times  []float64 // seconds of each turn
	value  float64   // of the last
	detail string    // what it said of itself
}

// answer is a line that a program prints.
type answer struct {
	Ready   bool    `json:"ready"`
	Variant string  `json:"variant"`
	Seconds float64 `json:"seconds"`
	Value   float64 `json:"value"`
}

// load starts a program and waits until it is ready.
func (b *bench) load(name string, args ...string) (*program, error) {
	p := &program{name: name, command: exec.CommandContext(b.ctx, args[0], args[1:]...)}
	p.command.Stderr = &p.stderr
	in, err := p.command.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := p.command.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.in, p.out = in, bufio.NewScanner(out)
	if err := p.command.Start(); err != nil {
		return nil, err
	}
	a, err := p.read()
	if err == nil && !a.Ready {
		err = fmt.Errorf("%s: answered before it was ready", name)
	}
	if err != nil {
		p.close()
		return nil, err
	}
	p.detail = a.Variant
	return p, nil
}

// read returns the program's next line.
func (p *program) read() (answer, error) {
	var a answer
	if !p.out.Scan() {
		text := p.stderr.String()
		return a, fmt.Errorf("%s (%v) ended: %s", p.name, p.command.Args, text[max(0, len(text)-2000):])
	}
	if err := json.Unmarshal(p.out.Bytes(), &a); err != nil {
		return a, fmt.Errorf("%s: %q: %w", p.name, p.out.Text(), err)
	}
	return a, nil
}

// turn has the program do its work once.
func (p *program) turn() error {
	if _, err := io.WriteString(p.in, "\n"); err != nil {
		return fmt.Errorf("%s: %w", p.name, err)
	}
	a, err := p.read()
	if err != nil {
		return err
	}
	p.times, p.value = append(p.times, a.Seconds), a.Value
	return nil
}

// seconds is the median of the turns.
func (p *program) seconds() float64 { return median(append([]float64(nil), p.times...)) }

func (p *program) close() {
	p.in.Close()
	_ = p.command.Wait() // its work is done, and what went wrong before is reported already
}

// contest is programs that do the same work, ours first.
type contest struct {
	name     string
	programs []*program
	memory   *program // takes turns with them, if not nil, but does other work
}

// enter loads one more program.
func (c *contest) enter(b *bench, name string, args ...string) error {
	p, err := b.load(name, args...)
	if err != nil {
		return err
	}
	c.programs = append(c.programs, p)
	return nil
}

func (c *contest) close() {
	for _, p := range c.programs {
		p.close()
	}
	if c.memory != nil {
		c.memory.close()
	}
}

// run gives each program n turns, the first place changing, and checks that the values of
// all are within a relative tolerance of ours.
func (c *contest) run(b *bench, n int, tolerance float64) error {
	for i := range n {
		for j := range c.programs {
			if err := c.programs[(i+j)%len(c.programs)].turn(); err != nil {
				return err
			}
		}
		if c.memory != nil {
			if err := c.memory.turn(); err != nil {
				return err
			}
		}
	}
	ours := c.programs[0]
	for _, p := range c.programs {
		b.report.Times[c.name+", "+p.name] = p.times
		say("%-40s %-12s %9.4f s, value %.6g", c.name, p.name, p.seconds(), p.value)
		if gap := math.Abs(p.value-ours.value) / math.Abs(ours.value); !(gap <= tolerance) {
			return fmt.Errorf("%s: %s computed %v and %s %v", c.name, ours.name, ours.value, p.name, p.value)
		}
	}
	return nil
}

// rows adds a line for each peer, in units of work a second; where there is none, ours.
// The goal is a ratio to every peer.
func (c *contest) rows(b *bench, work float64, unit string, goal float64) {
	ours := work / c.programs[0].seconds()
	if len(c.programs) == 1 {
		b.report.add(row{What: c.name, Unit: unit, Ours: ours})
	}
	for _, p := range c.programs[1:] {
		peer := work / p.seconds()
		line := row{What: c.name + " / " + p.name, Unit: unit, Ours: ours, Peer: peer, Ratio: ours / peer}
		if goal > 0 {
			line.Goal, line.holds = fmt.Sprintf("ratio >= %.1f", goal), ours >= goal*peer
		}
		b.report.add(line)
	}
}

// worker returns the command line of our side of a job.
func (b *bench) worker(args ...string) ([]string, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return append([]string{exe, "-child", "worker"}, args...), nil
}
