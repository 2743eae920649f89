package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/coppice-lm/coppice/engine"
	"github.com/coppice-lm/coppice/engine/cpu/kernel"
	"github.com/coppice-lm/coppice/lm"
	"github.com/coppice-lm/coppice/tokenizer"
)

func (a *app) generate() *cobra.Command {
	var prompt, system, dtype string
	var chat bool
	var maxLength int
	opt := lm.GenerateOptions{}
	cmd := &cobra.Command{
		Use:   "generate MODEL (--prompt TEXT | --chat)",
		Short: "Let a model continue a text, or chat with it",
		Long: `Continue a text, streamed as it is made. --chat lays the text out by the model's chat
template; without --prompt it is a conversation, one line of standard input a turn, in
which only what is new is computed. The default is greedy: the most probable token.
--quiet prints the text alone.`,
		Example: `  coppice generate smol60 --prompt "The capital of France is" --max-tokens 20
  coppice generate smol60 --prompt "Once upon a time" --temperature 0.8 --top-p 0.95 --seed 1
  coppice generate smol --chat --prompt "What is a coppice?"
  coppice generate smol --chat`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			precision, err := engine.ParsePrecision(dtype)
			if err != nil {
				return usagef("--dtype: %w", err)
			}
			given := cmd.Flags().Changed
			converse := chat && !given("prompt")
			switch {
			case !chat && !given("prompt"):
				return usagef("--prompt TEXT or --chat is needed")
			case !chat && given("system"):
				return usagef("--system needs --chat")
			case converse && a.json:
				return usagef("--json needs --prompt: a conversation is not one value")
			case given("max-length") && maxLength < 1:
				return usagef("--max-length %d: expected at least 1", maxLength)
			}
			if err := checkSampling(&opt); err != nil {
				return err
			}
			if err := kernel.LevelError(); err != nil {
				return &usageError{err}
			}
			if opt.Temperature == 0 && (given("top-k") || given("top-p") || given("min-p") || given("seed")) {
				a.notes([]string{"without --temperature the most probable token is taken, and --top-k, --top-p, --min-p and --seed have no effect"})
			}
			m, err := lm.Open(cmd.Context(), args[0], lm.Options{Precision: precision, Threads: a.threads, MaxLength: maxLength})
			if err != nil {
				return generateError(err)
			}
			a.notes(m.Notes())
			s := m.NewSession()
			if converse {
				return generateError(a.converse(cmd, s, system, opt))
			}
			var g lm.Generation
			if chat {
				g, err = s.Chat(cmd.Context(), opening(system, prompt), opt, a.emit)
			} else {
				g, err = s.Complete(cmd.Context(), prompt, opt, a.emit)
			}
			if err == nil || g.Text != "" {
				err = errors.Join(err, a.emit("\n"))
			}
			if err != nil {
				return generateError(err)
			}
			a.took(g)
			return a.result(map[string]any{"text": g.Text, "tokens": g.Tokens, "reason": g.Reason, "prompt_tokens": g.PromptTokens,
				"prompt_tokens_per_second": g.PromptSpeed(), "decode_tokens_per_second": g.DecodeSpeed()})
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&prompt, "prompt", "", "the text to continue")
	fl.BoolVar(&chat, "chat", false, "use the model's chat template; without --prompt, converse")
	fl.StringVar(&system, "system", "", "system message of the chat")
	precisionFlag(cmd, &dtype, engine.F32)
	fl.IntVar(&maxLength, "max-length", 0, "longest sequence in tokens (default: the model's; more must be asked for)")
	fl.IntVar(&opt.MaxTokens, "max-tokens", 256, "most new tokens")
	fl.Float64Var(&opt.Temperature, "temperature", 0, "0 is greedy")
	fl.IntVar(&opt.TopK, "top-k", 0, "sample from the k most probable tokens; 0: all")
	fl.Float64Var(&opt.TopP, "top-p", 0, "sample from the most probable tokens that reach this sum; 0: all")
	fl.Float64Var(&opt.MinP, "min-p", 0, "sample from tokens of at least this share of the most probable; 0: all")
	fl.Float64Var(&opt.RepetitionPenalty, "repetition-penalty", 0, "penalty on tokens that occurred; 0 or 1: none")
	fl.Uint64Var(&opt.Seed, "seed", 0, "seed of the sampling")
	fl.StringArrayVar(&opt.Stop, "stop", nil, "end before this text (may be given several times)")
	return cmd
}

// precisionFlag registers --dtype of a verb that generates.
func precisionFlag(cmd *cobra.Command, dtype *string, usual engine.Precision) {
	cmd.Flags().StringVar(dtype, "dtype", usual.String(), "weights and products in f32, bf16, f16, q8_0, q4_0, q4_1, or stored: weights as in the file, multiplied as llama.cpp does")
	var names []string
	for _, p := range engine.Precisions() {
		names = append(names, p.String())
	}
	completeWords(cmd, "dtype", names...)
}

// emit prints generated text, which --quiet does not hold back: it is what was asked for.
func (a *app) emit(text string) error {
	if a.json {
		return nil
	}
	if _, err := fmt.Fprint(a.stdout, text); err != nil {
		return &streamError{err}
	}
	return nil
}

// generateError sorts what went wrong in a generation. What was printed stays printed.
func generateError(err error) error {
	if errors.Is(err, context.Canceled) {
		return &interruptedError{err, "what is printed is all there is"}
	}
	return badInput(err)
}

// checkSampling refuses flags that mean nothing.
func checkSampling(o *lm.GenerateOptions) error {
	switch {
	case !(o.Temperature >= 0 && o.Temperature <= 100):
		return usagef("--temperature %v: expected a number from 0 to 100", o.Temperature)
	case o.TopK < 0:
		return usagef("--top-k %d: expected at least 0", o.TopK)
	case !(o.TopP >= 0 && o.TopP <= 1):
		return usagef("--top-p %v: expected a number from 0 to 1", o.TopP)
	case !(o.MinP >= 0 && o.MinP <= 1):
		return usagef("--min-p %v: expected a number from 0 to 1", o.MinP)
	case !(o.RepetitionPenalty >= 0 && o.RepetitionPenalty <= 100):
		return usagef("--repetition-penalty %v: expected a number from 0 to 100", o.RepetitionPenalty)
	case o.MaxTokens < 1:
		return usagef("--max-tokens %d: expected at least 1", o.MaxTokens)
	}
	for _, s := range o.Stop {
		if s == "" {
			return usagef("--stop: an empty text")
		}
	}
	return nil
}

// opening is the first turn of a chat.
func opening(system, user string) []tokenizer.Message {
	var m []tokenizer.Message
	if system != "" {
		m = append(m, tokenizer.Message{Role: "system", Content: system})
	}
	return append(m, tokenizer.Message{Role: "user", Content: user})
}

// converse answers line after line of standard input, until it ends.
func (a *app) converse(cmd *cobra.Command, s *lm.Session, system string, opt lm.GenerateOptions) error {
	var messages []tokenizer.Message
	lines := readLines(cmd.Context(), cmd.InOrStdin())
	for {
		if !a.quiet {
			fmt.Fprint(a.stderr, "> ")
		}
		var text string
		select {
		case <-cmd.Context().Done():
			return cmd.Context().Err()
		case line, ok := <-lines:
			if !ok {
				return nil // the end of the input ends the chat
			}
			if line.err != nil {
				return line.err
			}
			text = strings.TrimSpace(line.text)
		}
		if text == "" {
			continue
		}
		if messages == nil {
			messages = opening(system, text)
		} else {
			messages = append(messages, tokenizer.Message{Role: "user", Content: text})
		}
		g, err := s.Chat(cmd.Context(), messages, opt, a.emit)
		if err == nil || g.Text != "" {
			err = errors.Join(err, a.emit("\n"))
		}
		if err != nil {
			return err
		}
		a.took(g)
		if g.Reason == lm.Length && g.Text == "" {
			return errors.New("the conversation fills the model's context; begin a new one")
		}
		messages = append(messages, tokenizer.Message{Role: "assistant", Content: g.Text})
	}
}

// line is a line of input, or the error in its place.
type line struct {
	text string
	err  error
}

// readLines reads in the background, so that an interruption is heard while the user has
// not typed anything. The channel is closed at the end of the input.
func readLines(ctx context.Context, in io.Reader) <-chan line {
	lines := make(chan line)
	go func() {
		defer close(lines)
		r := bufio.NewReader(in)
		for {
			text, err := r.ReadString('\n')
			l := line{text: text}
			if err != nil && err != io.EOF {
				l.err = err
			}
			if text != "" || l.err != nil {
				select {
				case lines <- l:
				case <-ctx.Done():
					return
				}
			}
			if err != nil {
				return
			}
		}
	}()
	return lines
}

// took says what a generation took.
func (a *app) took(g lm.Generation) {
	if !a.quiet {
		fmt.Fprintf(a.stderr, "prompt %d tokens (%d from the cache), %.0f tokens/s; %d tokens made, %.1f tokens/s; ended by %s\n",
			g.PromptTokens, g.Reused, g.PromptSpeed(), len(g.Tokens), g.DecodeSpeed(), g.Reason)
	}
}
