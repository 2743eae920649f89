package eval

// RollingWindows cuts a document into requests that predict each of its tokens once. The
// first window predicts tokens[:maxLength] after the prefix token. Each later one predicts
// the next maxLength tokens, or what is left, and its input is maxLength tokens long: a
// full window sees one token of context, the last one of n tokens sees maxLength-n+1.
// No tokens give no window. (lm-eval: get_rolling_token_windows with context_len 1, and
// make_disjoint_window.) The requests share the memory of tokens.
func RollingWindows(tokens []int32, prefix int32, maxLength int) []TokenRequest {
	if len(tokens) == 0 {
		return nil
	}
	first := min(maxLength, len(tokens))
	windows := []TokenRequest{{Context: []int32{prefix}, Continuation: tokens[:first:first]}}
	for begin := first; begin < len(tokens); {
		end := min(begin+maxLength, len(tokens))
		from := end - maxLength - 1 // one token before the maxLength that end the window
		windows = append(windows, TokenRequest{
			Context:      tokens[from:begin:begin],
			Continuation: tokens[begin:end:end],
		})
		begin = end
	}
	return windows
}

// TextWindows cuts a text into consecutive windows of ctx tokens, ctx at least 2, and drops
// a shorter last one. In each the first token is context and the others are predicted, so
// that a model input is ctx-1 tokens. The requests share the memory of tokens.
func TextWindows(tokens []int32, ctx int) []TokenRequest {
	var windows []TokenRequest
	for ; len(tokens) >= ctx; tokens = tokens[ctx:] {
		windows = append(windows, TokenRequest{
			Context:      tokens[:1:1],
			Continuation: tokens[1:ctx:ctx],
		})
	}
	return windows
}
