"""Operations: logging, explanations, the doctor, and how values are written for people."""
