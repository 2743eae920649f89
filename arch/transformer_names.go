package arch

// nameTensors fills in the tensors' names: those of the family's table that a
// checkpoint of s must hold.
func (t *Transformer) nameTensors(s *Spec, norms normNames) {
	held := map[string]bool{}
	for _, x := range s.Tensors() {
		held[x.Name] = true
	}
	t.Embedding, t.FinalNorm, t.Head = "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"
	if !held[t.Head] {
		t.Head = t.Embedding
	}
	for i := range t.Layers {
		l, prefix := &t.Layers[i], LayerPrefix(i)
		queries, keys := l.Heads*s.HeadDim, l.KVHeads*s.HeadDim
		norm := func(name string) string {
			if name == "" || !held[prefix+name+".weight"] {
				return ""
			}
			return prefix + name + ".weight"
		}
		// projection finds a matrix under its own name or within a fused one.
		projection := func(name string, rows int, fused string, first, of int) Projection {
			p := Projection{Weight: prefix + name + ".weight", Rows: rows, OfRows: rows}
			if !held[p.Weight] {
				return Projection{Weight: prefix + fused + ".weight", FirstRow: first, Rows: rows, OfRows: of}
			}
			if held[prefix+name+".bias"] {
				p.Bias = prefix + name + ".bias"
			}
			return p
		}
		l.AttentionIn, l.AttentionOut = norm(norms.attentionIn), norm(norms.attentionOut)
		l.MLPIn, l.MLPOut = norm(norms.mlpIn), norm(norms.mlpOut)
		l.QNorm, l.KNorm = norm("self_attn.q_norm"), norm("self_attn.k_norm")
		const qkv, gateUp = "self_attn.qkv_proj", "mlp.gate_up_proj"
		if l.Heads > 0 {
			l.Q = projection("self_attn.q_proj", queries, qkv, 0, queries+2*keys)
			l.K = projection("self_attn.k_proj", keys, qkv, queries, queries+2*keys)
			l.V = projection("self_attn.v_proj", keys, qkv, queries+keys, queries+2*keys)
			l.Out = projection("self_attn.o_proj", s.Hidden, "", 0, 0)
		}
		if l.Width > 0 {
			l.Gate = projection("mlp.gate_proj", l.Width, gateUp, 0, 2*l.Width)
			l.Up = projection("mlp.up_proj", l.Width, gateUp, l.Width, 2*l.Width)
			l.Down = projection("mlp.down_proj", s.Hidden, "", 0, 0)
		}
	}
}
