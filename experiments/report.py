"""The command `dim-jax report`, for who has not installed it."""

from dim_jax.commands.report import main

if __name__ == '__main__':
  main()
