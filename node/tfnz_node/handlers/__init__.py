"""What each request does: one module a noun, a typed request in, steps and a result out."""
