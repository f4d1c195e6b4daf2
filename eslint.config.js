import js from '@eslint/js';
import { defineConfig } from 'eslint/config';
import tseslint from 'typescript-eslint';

export default defineConfig(
  { ignores: ['proto/gen/**', '.cache/**', '**/node_modules/**'] },
  js.configs.recommended,
  { files: ['**/*.ts'], extends: [tseslint.configs.strictTypeChecked] },
  {
    files: ['**/*.ts'],
    languageOptions: { parserOptions: { projectService: true } },
    rules: {
      '@typescript-eslint/explicit-module-boundary-types': 'error',
      '@typescript-eslint/consistent-type-imports': 'error',
      '@typescript-eslint/switch-exhaustiveness-check': [
        'error',
        { considerDefaultExhaustiveForUnions: true },
      ],
      // `await using` is used for its end, and `{ one, ...others }` for the others.
      '@typescript-eslint/no-unused-vars': [
        'error',
        { ignoreUsingDeclarations: true, ignoreRestSiblings: true },
      ],
      // Libraries type their parameters by classes of their own that they re-export under another identity.
      '@typescript-eslint/no-unsafe-class-instance-assignment': 'off',
      // grpc-js takes and gives plain numbers where it means its `status`.
      '@typescript-eslint/no-unsafe-enum-assignment': 'off',
      // Numbers and bigints read well inside template strings; everything else must be turned into text on purpose.
      '@typescript-eslint/restrict-template-expressions': ['error', { allowNumber: true }],
      // Packages are entered by their `exports`, never by a path into another package's sources.
      'no-restricted-imports': [
        'error',
        { patterns: ['**/../{common,agent,controller,cli,proto}/**', '@holdfast/*/src/*'] },
      ],
      // `while (true)` with an explicit exit reads better than a flag.
      '@typescript-eslint/no-unnecessary-condition': [
        'error',
        { allowConstantLoopConditions: 'only-allowed-literals' },
      ],
    },
  },
  {
    files: ['**/*.test.ts', 'test/**/*.ts'],
    rules: {
      // mocha's `describe` and `it` callbacks are often one expression.
      '@typescript-eslint/no-confusing-void-expression': 'off',
    },
  },
);
