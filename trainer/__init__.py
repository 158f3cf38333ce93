"""Everything around training the adapters. Never imports comfy."""
