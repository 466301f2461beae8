"""The paper's tables and figures, run again and judged claim by claim (`hushlm reproduce`)."""
