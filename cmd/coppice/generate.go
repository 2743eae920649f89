package main

import (
	"bufio"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/coppice-lm/coppice/engine"
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
which only what is new is computed. The default is greedy: the most probable token.`,
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
			if !chat && !cmd.Flags().Changed("prompt") {
				return usagef("--prompt TEXT or --chat is needed")
			}
			if !chat && system != "" {
				return usagef("--system needs --chat")
			}
			if chat && !cmd.Flags().Changed("prompt") && a.json {
				return usagef("--json needs --prompt: a conversation is not one value")
			}
			if err := checkSampling(&opt); err != nil {
				return err
			}
			m, err := lm.Open(cmd.Context(), args[0], lm.Options{Precision: precision, Threads: a.threads, MaxLength: maxLength})
			if err != nil {
				return badInput(err)
			}
			s := m.NewSession()
			if chat && !cmd.Flags().Changed("prompt") {
				return badInput(a.converse(cmd, s, system, opt))
			}
			emit := func(text string) error {
				if a.json {
					return nil
				}
				_, err := fmt.Fprint(a.stdout, text)
				return err
			}
			var g lm.Generation
			if chat {
				g, err = s.Chat(cmd.Context(), opening(system, prompt), opt, emit)
			} else {
				g, err = s.Complete(cmd.Context(), prompt, opt, emit)
			}
			if !a.json {
				fmt.Fprintln(a.stdout)
			}
			if err != nil {
				return badInput(err)
			}
			a.speed(g)
			return a.result(map[string]any{"text": g.Text, "tokens": g.Tokens, "reason": g.Reason, "prompt_tokens": g.PromptTokens,
				"prompt_tokens_per_second": g.PromptSpeed(), "decode_tokens_per_second": g.DecodeSpeed()})
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&prompt, "prompt", "", "the text to continue")
	fl.BoolVar(&chat, "chat", false, "use the model's chat template; without --prompt, converse")
	fl.StringVar(&system, "system", "", "system message of the chat")
	fl.StringVar(&dtype, "dtype", "f32", "precision of the computation: f32 or bf16")
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
	in := bufio.NewReader(cmd.InOrStdin())
	var messages []tokenizer.Message
	for {
		if !a.quiet {
			fmt.Fprint(a.stderr, "> ")
		}
		line, err := in.ReadString('\n')
		line = strings.TrimSpace(line)
		if line == "" && err != nil {
			return nil // the end of the input ends the chat
		}
		if line == "" {
			continue
		}
		if messages == nil {
			messages = opening(system, line)
		} else {
			messages = append(messages, tokenizer.Message{Role: "user", Content: line})
		}
		g, err := s.Chat(cmd.Context(), messages, opt, func(text string) error {
			_, err := fmt.Fprint(a.stdout, text)
			return err
		})
		fmt.Fprintln(a.stdout)
		if err != nil {
			return err
		}
		a.speed(g)
		if g.Reason == lm.Length && g.Text == "" {
			return errors.New("the conversation fills the model's context; begin a new one")
		}
		messages = append(messages, tokenizer.Message{Role: "assistant", Content: g.Text})
	}
}

// speed says what a generation took.
func (a *app) speed(g lm.Generation) {
	if !a.quiet {
		fmt.Fprintf(a.stderr, "prompt %d tokens (%d from the cache), %.0f tokens/s; %d tokens made, %.1f tokens/s; ended by %s\n",
			g.PromptTokens, g.Reused, g.PromptSpeed(), len(g.Tokens), g.DecodeSpeed(), g.Reason)
	}
}
