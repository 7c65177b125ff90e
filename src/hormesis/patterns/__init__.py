"""One public class per pattern: its settings, validated when made, and the machine they make."""
